//! This host's member ids in consumer groups. Brokers assign a new id each time that a consumer joins.
//!
//! The host writes them to its stores, so that members of a group that are not hosts of the store can be
//! detected.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The ids, shared by all consumers of the host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemberIds {
    /// By id: since when the host has not had this id any more.
    ids: Arc<Mutex<HashMap<String, Option<Instant>>>>,
    /// How long a group may keep a member that has left, if the brokers did not receive its request to
    /// leave. So long the id still counts as this host's.
    leave_grace: Duration,
}

impl MemberIds {
    pub fn new(leave_grace: Duration) -> Self {
        Self { ids: Arc::default(), leave_grace }
    }

    /// A consumer of this host is a member under this id.
    pub fn joined(&self, id: &str) {
        self.with(|ids| {
            ids.insert(id.to_owned(), None);
        });
    }

    /// The consumer is not a member under this id any more.
    pub fn left(&self, id: &str) {
        self.with(|ids| {
            if let Some(left) = ids.get_mut(id) {
                *left = Some(Instant::now());
            }
        });
    }

    /// All ids that may be in groups now, sorted.
    pub fn all(&self) -> Vec<String> {
        let mut all = self.with(|ids| {
            ids.retain(|_, left| left.is_none_or(|left| left.elapsed() < self.leave_grace));
            ids.keys().cloned().collect::<Vec<_>>()
        });
        all.sort_unstable();
        all
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, Option<Instant>>) -> T) -> T {
        work(&mut self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_left_counts_until_its_grace_is_over() {
        let ids = MemberIds::new(Duration::from_secs(60));
        ids.joined("b");
        ids.joined("a");
        ids.left("a");
        ids.left("never joined");
        assert_eq!(ids.all(), ["a", "b"]);
        let ids = MemberIds::new(Duration::ZERO);
        ids.joined("a");
        ids.left("a");
        assert!(ids.all().is_empty());
    }
}
