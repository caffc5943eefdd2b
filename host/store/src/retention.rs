//! What is removed of a projection's past, so that a store does not grow without end.
//!
//! Invariants: nothing goes that the host may need. Of a version that was active once, its last deployment stays for
//! ever: a file that the projection had before is told by it. A component keeps its row, which dead letters and rows
//! with lineage name; only its bytes go.

use async_trait::async_trait;
use projector_config::Keep;
use projector_core::generation::Generation;

use super::StoreError;

/// Rows that one transaction removes at most: others want the projection's lock meanwhile.
pub const AT_ONCE: u32 = 1_000;

/// Operations that are done are kept for so long whatever their number: whoever asked for them may still wait for
/// what came of them.
pub(super) const LEAST_SECONDS: i64 = 600;

#[async_trait]
pub trait Retention: Send + Sync {
    /// Every name that a projection has, or had before it was dropped.
    async fn names(&self) -> Result<Vec<String>, StoreError>;

    /// A projection's generations that readers saw before, the one that was live last first.
    async fn warm_generations(&self, projection: &str) -> Result<Vec<Warm>, StoreError>;

    /// Removes the oldest rows and components of a projection beyond what is kept, [`AT_ONCE`] of each at most.
    async fn prune(&self, projection: &str, keep: &Keep) -> Result<Pruned, StoreError>;
}

/// A generation that readers saw before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warm {
    pub generation: Generation,
    /// Views show it that are its own: readers may not have left them yet.
    pub has_views: bool,
}

/// Identity, projection, number, schema, and whether it has views of its own.
pub(super) type WarmRow = (i64, String, i32, String, bool);

pub(super) fn warm((id, projection, number, schema, has_views): WarmRow) -> Warm {
    Warm { generation: Generation { id, projection, number, schema }, has_views }
}

/// How much was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub operations: u64,
    pub deployments: u64,
    /// Whose bytes were removed.
    pub components: u64,
}

impl Pruned {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether there may be more.
    pub fn is_full(&self) -> bool {
        let most = u64::from(AT_ONCE);
        [self.operations, self.deployments, self.components].iter().any(|pruned| *pruned >= most)
    }
}
