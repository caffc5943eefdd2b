//! Removes the oldest records of a projection, so that a store does not grow without end.
//!
//! Invariants: the host may need what stays. The last deployment of every version that was active once stays: by it, a
//! file is known to be a component that the projection had before. A component keeps its row, because dead letters and
//! rows with lineage name it; only its bytes are removed.

use async_trait::async_trait;
use projector_config::Keep;
use projector_core::generation::Generation;

use crate::error::StoreError;

/// How many rows one transaction removes at most. Other transactions wait for the projection's lock meanwhile.
pub const AT_ONCE: u32 = 1_000;

/// Operations that are done stay for at least this time, whatever their number: a command may still wait for the result.
pub(crate) const LEAST_SECONDS: i64 = 600;

/// Finds and removes what is old.
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// Every name that a projection has, or had before it was dropped.
    async fn projection_names(&self) -> Result<Vec<String>, StoreError>;

    /// A projection's warm generations. The one that was live last comes first.
    async fn warm_generations(&self, projection: &str) -> Result<Vec<Warm>, StoreError>;

    /// Removes the oldest rows and components of a projection beyond what is kept, [`AT_ONCE`] of each at most.
    async fn prune(&self, projection: &str, keep: &Keep) -> Result<Pruned, StoreError>;
}

/// A generation that readers saw before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warm {
    pub generation: Generation,
    /// Whether it has views of its own. Readers may still use them.
    pub has_views: bool,
}

/// How much was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub operations: u64,
    pub deployments: u64,
    /// Components whose bytes were removed.
    pub components: u64,
}

impl Pruned {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether there may be more to remove.
    pub fn is_full(&self) -> bool {
        let most = u64::from(AT_ONCE);
        [self.operations, self.deployments, self.components].iter().any(|pruned| *pruned >= most)
    }
}
