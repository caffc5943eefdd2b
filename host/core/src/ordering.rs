//! Ordering: which events must keep their order when one of them fails or waits.
//!
//! Invariant: events with the same key, in topics of the same ordering group, keep their order. A key in its
//! group is hashed, so that keys of any size are compared and stored in 16 bytes.

use std::collections::HashSet;

use projector_model::Contract;
use sha2::{Digest, Sha256};

use crate::event::Event;

/// A key in its ordering group, hashed to a fixed size: the first half of a SHA-256 over both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// `None` if the event has no key: then only its partition gives it an order.
    pub fn of(contract: &Contract, event: &Event) -> Option<Self> {
        let group = &contract.topics[usize::from(event.topic)].ordering_group;
        event.key.as_deref().map(|key| Self::new(group, key))
    }

    /// The *line* of an event: its key in its own topic. If an event waits for a row, later events of its
    /// line wait behind it. Other events of the ordering group do not, since one of them may write the row.
    /// The same as [`KeyId::of`] for a topic that is a group of its own. An event without a key has a line
    /// of its own.
    pub fn line(contract: &Contract, event: &Event) -> Self {
        let topic = &contract.topics[usize::from(event.topic)];
        match event.key.as_deref() {
            Some(key) => Self::of_line(&topic.ordering_group, &topic.name, key),
            None => Self::new("\n", event.position.to_string().as_bytes()),
        }
    }

    /// The line of a key in one topic of an ordering group. Unambiguous, since names of topics and groups have
    /// no line feed.
    pub fn of_line(group: &str, topic: &str, key: &[u8]) -> Self {
        match group == topic {
            true => Self::new(group, key),
            false => Self::new(&format!("{group}\n{topic}"), key),
        }
    }

    /// The keys behind which the event may have to wait: its own key, for a failed event, and its line, for
    /// an event that waits for a row.
    pub fn all_of(contract: &Contract, event: &Event) -> impl Iterator<Item = Self> + use<> {
        let key = Self::of(contract, event);
        let line = key.map(|_| Self::line(contract, event)).filter(|line| Some(*line) != key);
        key.into_iter().chain(line)
    }

    /// The id of a key in an ordering group. The length of the group's name separates the two.
    pub fn new(group: &str, key: &[u8]) -> Self {
        let digest = Sha256::new()
            .chain_update((group.len() as u64).to_be_bytes())
            .chain_update(group)
            .chain_update(key)
            .finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

/// Keys of which an event failed, and lines of which an event waits for a row. Later events of these keys and
/// lines wait.
pub type Blocked = HashSet<KeyId>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_another_id_in_another_group() {
        assert_eq!(KeyId::new("orders", b"7"), KeyId::new("orders", b"7"));
        assert_ne!(KeyId::new("orders", b"7"), KeyId::new("order", b"s7"));
        assert_ne!(KeyId::new("orders", b"7"), KeyId::new("orders", b""));
    }

    #[test]
    fn a_line_is_its_key_unless_the_group_has_more_topics() {
        assert_eq!(KeyId::of_line("order", "order", b"7"), KeyId::new("order", b"7"));
        let lines = ["confirmed", "cancelled"].map(|topic| KeyId::of_line("order", topic, b"7"));
        assert_ne!(lines[0], lines[1]);
        assert!(!lines.contains(&KeyId::new("order", b"7")));
    }
}
