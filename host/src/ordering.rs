//! What keeps its order: the events of one key, in the topics of one ordering group.

use std::collections::HashSet;

use projector_model::Contract;
use sha2::{Digest, Sha256};

use crate::event::Event;

/// A key in its ordering group, of a fixed size, whatever the producer wrote: the first half of a
/// SHA-256 over both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// `None`: the event has no key, and no place in any order but its partition's.
    pub fn of(contract: &Contract, event: &Event) -> Option<Self> {
        let group = &contract.topics[usize::from(event.topic)].ordering_group;
        event.key.as_deref().map(|key| Self::new(group, key))
    }

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

/// Keys of which an event failed, and whose later events wait.
pub type Blocked = HashSet<KeyId>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_another_one_in_another_group() {
        assert_eq!(KeyId::new("orders", b"7"), KeyId::new("orders", b"7"));
        assert_ne!(KeyId::new("orders", b"7"), KeyId::new("order", b"s7"));
        assert_ne!(KeyId::new("orders", b"7"), KeyId::new("orders", b""));
    }
}
