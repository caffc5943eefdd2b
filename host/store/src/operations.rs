//! Operations: operators' requests, each stored with who made it, when, why, and the result.
//!
//! An operation on dead letters writes rows of a projection. So it is stored [open](OpenOperation), and the lane that
//! reads its partition carries it out between two batches. All other operations are done at once.

use projector_core::event::Partition;
use projector_core::event_failure::Failure;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::requester::Requester;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadLetterAction {
    /// Projects a dead letter again and, if that succeeds, the events that wait behind it.
    Retry,
    /// Drops a dead letter, and projects the events that wait behind it.
    Discard,
}

impl DeadLetterAction {
    /// `None`: an action that only a newer host knows.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [DeadLetterAction::Retry, DeadLetterAction::Discard]
            .into_iter()
            .find(|action| action.as_str() == word)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            DeadLetterAction::Retry => "retry",
            DeadLetterAction::Discard => "discard",
        }
    }
}

/// A request for the same operation on each of these dead letters.
#[derive(Debug, Clone)]
pub struct NewOperations {
    pub action: DeadLetterAction,
    pub dead_letters: Vec<i64>,
    pub dry_run: bool,
    pub requester: Requester,
}

/// An operation that is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOperation {
    pub id: i64,
    pub action: DeadLetterAction,
    /// The lane that reads this partition carries the operation out.
    pub partition: Partition,
}

/// What came of an operation on a dead letter, and of the events behind it. Stored as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationResult {
    /// The outcome of the dead letter: `applied`, `ignored`, `discarded`, `gone`, or the kind of the failure if it failed
    /// again.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How many of the events behind it were applied, and how many were ignored.
    pub applied: i64,
    pub ignored: i64,
    /// How many of them still wait, behind this dead letter or behind one of them that failed in its turn.
    pub waiting: i64,
    /// What they wait behind now: the number of a dead letter, or the position of an event that waits for a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Of a dry run: the changes that it would have made, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Json>,
}

impl OperationResult {
    pub fn of(outcome: &str) -> Self {
        Self { outcome: outcome.to_owned(), ..Self::default() }
    }

    pub fn failed(failure: &Failure) -> Self {
        let (code, detail) = (Some(failure.code.clone()), Some(failure.detail.clone()));
        Self { code, detail, ..Self::of(failure.kind.as_str()) }
    }

    /// Whether the dead letter is gone.
    pub fn is_settled(&self) -> bool {
        matches!(self.outcome.as_str(), "applied" | "ignored" | "discarded" | "gone")
    }
}

/// A stored operation.
#[derive(Debug, Clone, Serialize)]
pub struct Operation {
    pub id: i64,
    pub projection: String,
    /// `None`: it was about all generations of the projection.
    pub generation: Option<i32>,
    pub action: String,
    #[serde(flatten)]
    pub target: OperationTarget,
    pub dry_run: bool,
    pub reason: Option<String>,
    pub asked_by: String,
    /// Microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub asked_at: i64,
    #[serde(serialize_with = "projector_core::instant::option::serialize")]
    pub done_at: Option<i64>,
    #[serde(rename = "verdict")]
    pub result: Option<Json>,
}

from_row! {
    Operation {
        ..target, id, projection, generation, action, dry_run, reason, asked_by, asked_at, done_at, result = "verdict"
    }
}

/// What an operation is about, if it is not the whole generation.
#[derive(Debug, Clone, Serialize)]
pub struct OperationTarget {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
}

from_row! { OperationTarget { dead_letter = "dead_letter_id", topic, partition } }
