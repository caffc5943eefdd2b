//! Which host brings a generation to the end of its topics.

use async_trait::async_trait;
use projector_core::generation::Generation;

use crate::error::StoreError;

/// The state of catching up, which all hosts of a generation share.
#[async_trait]
pub trait CatchUpStore: Send + Sync {
    /// Whether a generation has been at the end of its topics once. If not, which host brings it there: every host, or,
    /// if `alone`, only the first that asks. Another host takes over when that host gives the lock back or is gone. A
    /// generation that is built beside a live one is caught up `alone` for as long as it is built.
    async fn catch_up(&self, generation: &Generation, alone: bool) -> Result<CatchUp, StoreError>;

    /// Records that a generation is at the end of its topics.
    async fn set_caught_up(&self, generation: &Generation) -> Result<(), StoreError>;

    /// Has the database analyze the generation's tables and the host's own, so that it plans statements for the rows that
    /// are in them now.
    async fn analyze(&self, generation: &Generation) -> Result<(), StoreError>;
}

/// See [`CatchUpStore::catch_up`].
pub enum CatchUp {
    /// The generation is caught up.
    Done,
    /// This host catches up.
    Ours(CatchingUp),
    /// Another host does.
    Theirs(CatchUpProgress),
}

/// How far a host that catches up alone has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatchUpProgress {
    /// The database's number of the session that has the lock.
    pub session: i32,
    /// The sum of the checkpoints.
    pub offsets: i64,
    pub caught_up: bool,
    /// The sum of the checkpoints of the projection's other generations.
    pub offsets_of_others: i64,
}

impl CatchUpProgress {
    /// Whether the host made progress since `before`, or had nothing to do: a generation that is caught up moves only
    /// when the generations beside it do.
    pub fn has_progressed_since(&self, before: &CatchUpProgress) -> bool {
        let is_idle = self.caught_up && self.offsets_of_others == before.offsets_of_others;
        is_idle || (self.session, self.offsets) != (before.session, before.offsets)
    }
}

/// This host catches a generation up. If alone, no other host does so for as long as this value and its session with
/// the database live.
pub struct CatchingUp {
    lock: Option<Box<dyn CatchUpLock>>,
}

impl CatchingUp {
    /// With a lock that keeps other hosts out.
    pub(crate) fn alone(lock: impl CatchUpLock + 'static) -> Self {
        Self { lock: Some(Box::new(lock)) }
    }

    /// Beside other hosts: all of them catch up, or the one that has the lock makes no progress.
    pub fn beside_others() -> Self {
        Self { lock: None }
    }

    /// Whether this host still has the lock: a restart of the database takes the lock away.
    pub async fn is_held(&self) -> bool {
        match &self.lock {
            Some(lock) => lock.is_held().await,
            None => true,
        }
    }
}

/// A lock of one generation. Dropped, it is given back.
#[async_trait]
pub(crate) trait CatchUpLock: Send + Sync {
    /// Whether the lock is still this host's.
    async fn is_held(&self) -> bool;
}
