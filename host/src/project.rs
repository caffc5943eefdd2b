//! Calls the plugin for the events of a batch, and decides the outcome of each event.
//!
//! [`ask`] calls the plugin once for each event. Most events need no rows, so this answer is final. The call needs no
//! database, so it can run while the previous batch commits. [`resolve`] then runs inside the transaction: it calls the
//! plugin again, in order, for events that asked for rows.
//!
//! Invariant: an event sees the stored rows with the changes of all events before it. Each round of reads covers the
//! whole batch: see `resolver`.

mod call;
mod caller;
mod overlay;
pub mod purity;
mod resolver;

pub use caller::Caller;
pub use resolver::resolve;

use std::sync::Arc;

use projector_core::batch::Delivery;
use projector_core::duplicate::Again;
use projector_core::event::{Event, Position};
use projector_core::event_failure::Failure;
use projector_core::failure::Blocker;
use projector_core::ordering::Blocked;
use projector_model::interpret::Row;
use projector_model::{Contract, LookupCall};
use projector_sandbox::{Answer, Found, Plugin};
use projector_store::StoreError;

/// The plugin's answer to an event without any rows. A failure was confirmed by a second call.
pub type FirstAnswer = Result<Answer, Failure>;

/// The plugin's first answers to an event: one for each of its logical topics, in declared order, up to the first
/// failure.
#[derive(Debug, Clone, PartialEq)]
pub struct FirstAnswers {
    first: FirstAnswer,
    also: Vec<FirstAnswer>,
}

impl FirstAnswers {
    pub fn failed(failure: Failure) -> Self {
        Self::from(Err(failure))
    }

    pub fn failure(&self) -> Option<&Failure> {
        self.iter().find_map(|answer| answer.as_ref().err())
    }

    pub fn iter(&self) -> impl Iterator<Item = &FirstAnswer> {
        std::iter::once(&self.first).chain(&self.also)
    }

    fn nth(&self, nth: usize) -> Option<&FirstAnswer> {
        self.iter().nth(nth)
    }
}

impl From<FirstAnswer> for FirstAnswers {
    fn from(first: FirstAnswer) -> Self {
        Self { first, also: Vec::new() }
    }
}

#[derive(Debug)]
pub enum ProjectError {
    /// The call for this event exceeded its time limit. The cause may be a busy machine as well as the plugin, so the
    /// caller may try the event again.
    Timeout(Position),
    Store(StoreError),
    /// The version on trial fails for the first event of the batch. The caller tries the previous version.
    OnTrial(Failure),
    /// The projection stops before the first event of the batch, until an operator acts.
    Blocker(Blocker),
}

impl From<StoreError> for ProjectError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Reads stored rows: see [`Transaction::read`](projector_store::Transaction::read).
pub type Read<'r> = dyn FnMut(&[LookupCall], usize) -> Result<Vec<Option<Vec<Row>>>, StoreError> + 'r;

/// Answers the calls for the events of a batch: a plugin, through its [`Caller`], or a test double.
pub trait Respondent {
    fn contract(&self) -> &Arc<Contract>;

    /// The answer to an event and the rows that it asked for. The answer is checked against the contract, and a failure
    /// is confirmed by a second call. Blocks.
    fn call(&mut self, event: &Event, found: &[Found]) -> Result<FirstAnswer, ProjectError>;

    /// Whether all calls together have used this share of the batch's limits: of its fuel, its time, or its bytes. 1.0
    /// is all of it.
    fn has_used(&self, part: f64) -> bool;

    /// How many bytes of rows the lookups may find.
    fn room(&self) -> Room;
}

/// Limits for the bytes of rows that lookups find.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// For one event. An event whose lookups find more fails.
    pub of_event: usize,
    /// For all events of a batch but the first. The batch ends before an event with which it would exceed this limit.
    pub of_batch: usize,
}

/// Calls the plugin for each event, in one fresh instance. Blocks. See [`first_answers`].
pub fn ask(plugin: &Plugin, batch: &[Delivery]) -> Result<Vec<FirstAnswers>, ProjectError> {
    first_answers(&mut Caller::new(plugin), batch)
}

/// Returns the answers to the events from the front of the batch, at least to one. If the calls have used up the batch's
/// fuel, time or bytes, the other events have no answer, and begin the next batch.
pub fn first_answers(
    respondent: &mut dyn Respondent,
    batch: &[Delivery],
) -> Result<Vec<FirstAnswers>, ProjectError> {
    let mut answers = Vec::with_capacity(batch.len());
    for Delivery { event, .. } in batch {
        let mut of_event = FirstAnswers::from(respondent.call(event, &[])?);
        for nth in 1..event.topic_count() {
            if of_event.failure().is_some() {
                break;
            }
            of_event.also.push(respondent.call(&event.as_of(nth), &[])?);
        }
        answers.push(of_event);
        if respondent.has_used(1.0) {
            break;
        }
    }
    Ok(answers)
}

/// The keys whose events are parked: an earlier event of the key failed, or waits for a row.
#[derive(Debug, Default)]
pub struct Keys {
    pub blocked: Blocked,
    /// Whether an event that fails now blocks its key.
    pub park: bool,
    /// This many events from the front of the batch fail instead of waiting for a row: they are retried dead letters.
    pub never_wait: usize,
}

/// A batch and the first answers to its events, before the transaction reads rows.
#[derive(Clone, Copy)]
pub struct Answered<'a, 'r> {
    pub events: &'r [Delivery],
    /// One for each event.
    pub answers: &'a [FirstAnswers],
    /// One for each event, or empty: for which of its logical topics the event was handled already.
    pub duplicates: &'r [Again],
}
