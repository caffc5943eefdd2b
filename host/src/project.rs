//! A batch through the plugin: what each event leads to.
//!
//! Every event is called once; those that ask for rows are called again, in order, when the rows
//! that all of them ask for were read at once. What a later event is shown is what is stored, as
//! changed by the events before it.

mod overlay;

use std::collections::HashMap;

use projector_model::interpret::Row;
use projector_model::LookupCall;

use crate::batch::Delivery;
use crate::event::{Event, Position};
use crate::outcome::{Failure, FailureKind, Outcome};
use crate::plugin::{Answer, Found, Instance, Plugin};
use crate::store::StoreError;
use crate::validate;
use overlay::Overlay;

/// How often an event may ask for rows.
const ROUNDS: usize = 3;

#[derive(Debug)]
pub enum ProjectError {
    /// The machine may be at fault: to be tried again.
    Timeout(Position),
    Store(StoreError),
}

/// Failures that were established outside of the plugin: the database refused these events.
pub type Verdicts = HashMap<Position, Failure>;

/// Reads stored rows: for each call, the whole rows that it finds.
pub type Read<'r> = dyn FnMut(&[LookupCall]) -> Result<Vec<Vec<Row>>, StoreError> + 'r;

/// Projects events in order. Blocks.
///
/// Returns an outcome for each event, or for fewer: those that remain are to begin the next batch,
/// because a lookup of theirs could find rows that this one has not written yet.
pub fn project(
    plugin: &Plugin,
    batch: &[Delivery],
    verdicts: &Verdicts,
    read: &mut Read<'_>,
) -> Result<Vec<Outcome>, ProjectError> {
    let mut caller = Caller { plugin, instance: None };
    let mut first_answers = Vec::with_capacity(batch.len());
    for delivery in batch {
        first_answers.push(match verdicts.get(&delivery.event.position) {
            Some(failure) => Err(failure.clone()),
            None => caller.call(&delivery.event, &[])?,
        });
    }
    let mut overlay = Overlay::new(&plugin.contract);
    let needs = first_answers.iter().flatten().filter_map(Answer::needs).flatten();
    overlay.load(needs.cloned().collect(), read).map_err(ProjectError::Store)?;

    let mut outcomes = Vec::with_capacity(batch.len());
    for (delivery, mut answer) in batch.iter().zip(first_answers) {
        let mut found: Vec<Found> = Vec::new();
        let mut rounds = 0;
        while let Ok(Answer::Needs(calls)) = &answer {
            rounds += 1;
            if rounds > ROUNDS || calls.is_empty() {
                answer = Err(Failure::new(
                    FailureKind::Limit,
                    "rounds",
                    format!("it still asks for rows after {ROUNDS} rounds, or asks for none"),
                ));
                break;
            }
            if calls.iter().any(|call| overlay.is_unsure(call)) {
                return Ok(outcomes);
            }
            overlay.load(calls.clone(), read).map_err(ProjectError::Store)?;
            found.extend(calls.iter().map(|call| (call.clone(), overlay.look_up(call))));
            answer = caller.call(&delivery.event, &found)?;
        }
        let outcome = match answer {
            Ok(Answer::Changes(changes)) => Outcome::Apply(changes),
            Ok(Answer::Ignored { code, .. }) => Outcome::Ignore { code },
            Ok(Answer::Needs(_)) => unreachable!("the loop above ends with another answer"),
            Err(failure) => Outcome::Dead(failure),
        };
        if let Outcome::Apply(changes) = &outcome {
            overlay.apply(changes);
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Calls the plugin; a failure is confirmed by a second call, alone in a fresh instance.
struct Caller<'p> {
    plugin: &'p Plugin,
    /// The batch's instance. One that broke off is replaced.
    instance: Option<Instance>,
}

impl Caller<'_> {
    fn call(&mut self, event: &Event, found: &[Found]) -> Result<Result<Answer, Failure>, ProjectError> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => match Instance::new(self.plugin) {
                Ok(instance) => instance,
                Err(failure) => return decided(event, Err(failure)),
            },
        };
        let answer = self.checked(&mut instance, event, found);
        if !instance.is_spent() {
            self.instance = Some(instance);
        }
        if answer.is_ok() {
            return Ok(answer);
        }
        let confirmed = Instance::new(self.plugin).and_then(|mut alone| self.checked(&mut alone, event, found));
        decided(event, confirmed)
    }

    fn checked(&self, instance: &mut Instance, event: &Event, found: &[Found]) -> Result<Answer, Failure> {
        let mut answer = instance.project(event, found)?;
        match &mut answer {
            Answer::Changes(changes) => validate::changes(&self.plugin.contract, event.topic, changes)?,
            Answer::Needs(calls) => validate::lookups(&self.plugin.contract, event.topic, calls)?,
            Answer::Ignored { .. } => {}
        }
        Ok(answer)
    }
}

fn decided(event: &Event, answer: Result<Answer, Failure>) -> Result<Result<Answer, Failure>, ProjectError> {
    match answer {
        Err(failure) if failure.kind == FailureKind::Timeout => Err(ProjectError::Timeout(event.position.clone())),
        answer => Ok(answer),
    }
}

impl Answer {
    fn needs(&self) -> Option<&[LookupCall]> {
        match self {
            Answer::Needs(calls) => Some(calls),
            _ => None,
        }
    }
}
