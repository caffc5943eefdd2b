//! Asks the plugin what each event of a batch leads to.
//!
//! [`ask`] calls the plugin once for each event. Most events need no rows, so this answer is final. The call needs no
//! database, so it runs ahead, while the batch before it commits. [`resolve`] then runs inside the transaction: it calls
//! the plugin again, in order, for events that asked for rows.
//!
//! Invariant: an event sees the stored rows as changed by all events before it. The rows are read for the whole batch at
//! once in each round; see `resolver`.

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

/// An event's answer to its first call, without any rows. A failure is confirmed.
pub type FirstAnswer = Result<Answer, Failure>;

/// An event's answers to its first calls: one for each of its logical topics, in declared order, up to the
/// first failure.
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
    /// A call exceeded its time limit. This machine may be at fault, so the call may be tried again.
    Timeout(Position),
    Store(StoreError),
    /// The version on trial fails for the first event of the batch.
    OnTrial(Failure),
    /// An operator must decide about the next event.
    Blocker(Blocker),
}

impl From<StoreError> for ProjectError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Reads stored rows: see [`Transaction::read`](projector_store::Transaction::read).
pub type Read<'r> = dyn FnMut(&[LookupCall], usize) -> Result<Vec<Option<Vec<Row>>>, StoreError> + 'r;

/// What answers to the events of a batch: a plugin, through its [`Caller`], or a double of it in a test.
pub trait Respondent {
    fn contract(&self) -> &Arc<Contract>;

    /// The answer to an event, with the rows that it is shown. The answer is checked against the contract, and a
    /// failure is confirmed by a second call. Blocks.
    fn call(&mut self, event: &Event, found: &[Found]) -> Result<FirstAnswer, ProjectError>;

    /// Whether all calls together used this share of the batch's limits.
    fn has_used(&self, part: f64) -> bool;

    /// How many bytes of rows may be found for its events.
    fn room(&self) -> Room;
}

/// Limits for the bytes of rows that lookups find.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// For one event. An event that finds more fails.
    pub of_event: usize,
    /// For a batch, in addition to its first event. The batch ends before an event that finds more.
    pub of_batch: usize,
}

/// Calls the plugin for each event, in one fresh instance. Blocks. See [`first_answers`].
pub fn ask(plugin: &Plugin, batch: &[Delivery]) -> Result<Vec<FirstAnswers>, ProjectError> {
    first_answers(&mut Caller::new(plugin), batch)
}

/// Returns answers for each event, or for fewer, but for one at least: those that remain are to begin
/// the next batch, because this one has used its fuel, its time or its bytes.
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

/// The keys whose events wait behind one that failed or that waits for a row.
#[derive(Debug, Default)]
pub struct Keys {
    pub blocked: Blocked,
    /// Whether an event that fails now blocks its key.
    pub park: bool,
    /// How many of the first events fail instead of waiting for a row.
    pub impatient: usize,
}

/// A batch as far as it is known before its transaction reads rows.
#[derive(Clone, Copy)]
pub struct Answered<'a, 'r> {
    pub events: &'r [Delivery],
    /// For each event.
    pub answers: &'a [FirstAnswers],
    /// For each event, or for none: which of its logical topics have had it already.
    pub duplicates: &'r [Again],
}
