//! What becomes of an event, as plain data.

use std::borrow::Cow;

use projector_model::Change;

use crate::awaited::AwaitedRow;
use crate::batch::Delivery;
use crate::event::Event;
use crate::event_failure::Failure;
use crate::ordering::KeyId;

/// What becomes of an event. Most often it is what the plugin answered at once, and is borrowed from
/// there.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<'a> {
    Apply(Cow<'a, [Change]>),
    Ignore {
        code: Cow<'a, str>,
    },
    /// An earlier event of its key failed, or one of its line waits: it waits behind that one.
    Park(KeyId),
    /// It needs a row that is not there yet. Later events of its line wait behind it.
    Wait {
        row: AwaitedRow,
        line: KeyId,
    },
    /// It failed.
    Dead {
        failure: Cow<'a, Failure>,
        /// The key whose later events wait behind it; `None`: none do.
        blocks: Option<KeyId>,
    },
}

impl Outcome<'_> {
    /// What becomes of an event of several logical topics, neither of which fails: it is applied, with the
    /// changes of both in their order, unless both ignore it, which counts as the first one does.
    pub fn and(self, next: Self) -> Self {
        match (self, next) {
            (Outcome::Apply(changes), Outcome::Apply(more)) => {
                let mut changes = changes.into_owned();
                changes.extend(more.into_owned());
                Outcome::Apply(Cow::Owned(changes))
            }
            (Outcome::Ignore { .. }, applied @ Outcome::Apply(_)) => applied,
            (open @ (Outcome::Dead { .. } | Outcome::Park(_) | Outcome::Wait { .. }), _) => open,
            (_, open @ (Outcome::Dead { .. } | Outcome::Park(_) | Outcome::Wait { .. })) => open,
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
