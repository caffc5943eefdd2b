//! The outcome of an event, as plain data.
//!
//! Each event of a batch has exactly one outcome. The store commits the outcomes with the checkpoint, in one
//! transaction.

use std::borrow::Cow;

use projector_model::Change;

use crate::awaited::AwaitedRow;
use crate::batch::Delivery;
use crate::event::Event;
use crate::event_failure::Failure;
use crate::ordering::KeyId;

/// The outcome of an event. Mostly borrowed from the plugin's first answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<'a> {
    /// The event's row changes, in their order. None is allowed.
    Apply(Cow<'a, [Change]>),
    /// The plugin ignores the event. Counted by the code.
    Ignore { code: Cow<'a, str> },
    /// An earlier event of the same key failed, or an earlier event of the same line waits: the event waits
    /// behind it.
    Park(KeyId),
    /// The event needs a row that does not exist yet. Later events of its line wait behind it.
    Wait { row: AwaitedRow, line: KeyId },
    /// The event failed, and becomes a dead letter.
    Dead {
        failure: Cow<'a, Failure>,
        /// The key whose later events wait behind it. `None`: no events wait.
        blocks: Option<KeyId>,
    },
}

impl Outcome<'_> {
    /// Combines the outcomes of an event for two of its logical topics. If none fails or waits, the event
    /// is applied with the changes of both, in their order; if both ignore it, the first code counts.
    pub fn and(self, next: Self) -> Self {
        match (self, next) {
            (Outcome::Apply(changes), Outcome::Apply(more)) => {
                let mut changes = changes.into_owned();
                changes.extend(more.into_owned());
                Outcome::Apply(Cow::Owned(changes))
            }
            (Outcome::Ignore { .. }, applied @ Outcome::Apply(_)) => applied,
            (unapplied @ (Outcome::Dead { .. } | Outcome::Park(_) | Outcome::Wait { .. }), _) => unapplied,
            (_, unapplied @ (Outcome::Dead { .. } | Outcome::Park(_) | Outcome::Wait { .. })) => unapplied,
            (first, Outcome::Ignore { .. }) => first,
        }
    }
}

/// The events of a batch that are applied, each with its changes.
pub fn applied<'a>(
    batch: &'a [Delivery],
    outcomes: &'a [Outcome<'_>],
) -> impl Iterator<Item = (&'a Event, &'a [Change])> {
    batch.iter().zip(outcomes).filter_map(|(delivery, outcome)| match outcome {
        Outcome::Apply(changes) => Some((&delivery.event, &changes[..])),
        _ => None,
    })
}
