//! A batch through the plugin: what each event leads to.
//!
//! [`ask`] calls the plugin once for every event. Most events are answered by that; it needs no
//! database, so it runs ahead, while the batch before it commits. [`resolve`] then runs inside the
//! transaction: the rows that events asked for are read at once, and those events are called again,
//! in order. What a later event is shown is what is stored, as changed by the events before it.

mod overlay;

use projector_model::LookupCall;
use projector_model::change::codes;
use projector_model::interpret::Row;

use crate::batch::Delivery;
use crate::event::{Event, Position};
use crate::outcome::{Failure, FailureKind, Outcome};
use crate::plugin::{Answer, Found, Instance, Plugin};
use crate::store::StoreError;
use crate::validate;
use overlay::Overlay;

/// How often an event may ask for rows.
const ROUNDS: usize = 3;

/// An event's answer to its first call, without any rows. A failure is confirmed.
pub type FirstAnswer = Result<Answer, Failure>;

#[derive(Debug)]
pub enum ProjectError {
    /// The machine may be at fault: to be tried again.
    Timeout(Position),
    Store(StoreError),
}

/// Reads stored rows: for each call, the whole rows that it finds.
pub type Read<'r> = dyn FnMut(&[LookupCall]) -> Result<Vec<Vec<Row>>, StoreError> + 'r;

/// Calls the plugin for each event, in one fresh instance. Blocks.
pub fn ask(plugin: &Plugin, batch: &[Delivery]) -> Result<Vec<FirstAnswer>, ProjectError> {
    let mut caller = Caller::new(plugin);
    batch.iter().map(|delivery| caller.call(&delivery.event, &[])).collect()
}

/// Brings each event to its outcome, in order. Blocks. What is a duplicate leads to nothing.
///
/// Returns an outcome for each event, or for fewer, but for one at least: those that remain are to
/// begin the next batch, because a lookup of theirs could find rows that this one has not written
/// yet.
pub fn resolve(
    plugin: &Plugin,
    batch: &[Delivery],
    answers: &[FirstAnswer],
    duplicates: &[bool],
    read: &mut Read<'_>,
) -> Result<Vec<Outcome>, ProjectError> {
    let mut caller = Caller::new(plugin);
    let mut overlay = Overlay::new(&plugin.contract);
    let needs = answers.iter().flatten().filter_map(Answer::needs).flatten();
    overlay.load(needs.cloned().collect(), read).map_err(ProjectError::Store)?;

    let mut outcomes = Vec::with_capacity(batch.len());
    for (at, (delivery, first)) in batch.iter().zip(answers).enumerate() {
        if duplicates.get(at) == Some(&true) {
            outcomes.push(Outcome::Ignore { code: codes::DUPLICATE.into() });
            continue;
        }
        let mut answer = first.clone();
        let mut found: Vec<Found> = Vec::new();
        let mut rounds = 0;
        let outcome = loop {
            let calls = match answer {
                Ok(Answer::Changes(changes)) => break Outcome::Apply(changes),
                Ok(Answer::Ignored { code, .. }) => break Outcome::Ignore { code },
                Err(failure) => break Outcome::Dead(failure),
                Ok(Answer::Needs(calls)) => calls,
            };
            rounds += 1;
            if rounds > ROUNDS || calls.is_empty() {
                let detail = format!("it still asks for rows after {ROUNDS} rounds, or asks for none");
                break Outcome::Dead(Failure::new(FailureKind::Limit, "rounds", detail));
            }
            if calls.iter().any(|call| overlay.is_unsure(call)) {
                return Ok(outcomes);
            }
            overlay.load(calls.clone(), read).map_err(ProjectError::Store)?;
            for call in calls {
                let rows = overlay.look_up(&call);
                found.push((call, rows));
            }
            answer = caller.call(&delivery.event, &found)?;
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

impl<'p> Caller<'p> {
    fn new(plugin: &'p Plugin) -> Self {
        Self { plugin, instance: None }
    }

    fn call(&mut self, event: &Event, found: &[Found]) -> Result<FirstAnswer, ProjectError> {
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
        let confirmed =
            Instance::new(self.plugin).and_then(|mut alone| self.checked(&mut alone, event, found));
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

fn decided(event: &Event, answer: FirstAnswer) -> Result<FirstAnswer, ProjectError> {
    match answer {
        Err(failure) if failure.kind == FailureKind::Timeout => {
            Err(ProjectError::Timeout(event.position.clone()))
        }
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
