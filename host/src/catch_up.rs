//! Which host builds a new generation: a single host, if the order between partitions matters.
//!
//! The order matters if the rows depend on it, or if the effect or the rejection of an event depends on
//! rows that events of other partitions write. A consumer merges its partitions by time (see
//! [`source`](projector_kafka)), but Kafka may assign the topics to different hosts, and each host merges
//! only its own partitions. So the other hosts wait until the new generation is caught up and, if it is
//! built beside the live one, until readers see it. During the build, no partition moves from one host to
//! another while events are written. Afterwards all hosts share the partitions, and events are read as they
//! arrive.
//!
//! Progress is more important than order: the other hosts do not wait for a host that makes no progress.
//!
//! `ends` decides when a generation is caught up, for all its lanes and hosts.

mod ends;

use std::time::Duration;

use projector_core::generation::{Generation, Role};
use projector_kafka::{MergeOrder, Merging};
use projector_model::{Contract, order};
use projector_store::{CatchUp, CatchingUp, Progress, Store, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use ends::follow;

/// How often a waiting host asks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Whether a single host builds the projection's generations. The order between partitions matters, or each
/// batch must see the batches before it; then more hosts would not be faster either.
pub fn needs_order(contract: &Contract) -> bool {
    contract.needs_one_writer() || order_shows(contract)
}

/// Whether rows depend on the order between partitions, so that partitions are merged by time even after
/// catching up.
pub fn order_shows(contract: &Contract) -> bool {
    !order::unsettled(contract).is_empty()
}

/// How a projection's partitions are merged, while the generation catches up and afterwards.
pub fn merging(contract: &Contract, is_caught_up: bool, skew: Duration) -> Merging {
    let then = match order_shows(contract) {
        true => MergeOrder::TimeWhileBehind,
        false => MergeOrder::Arrival,
    };
    let order = match is_caught_up {
        true => then,
        false if needs_order(contract) => MergeOrder::Time,
        false => MergeOrder::TimeWhileBehind,
    };
    Merging { order, then, skew }
}

/// The state of catching up, which the lanes of this host share.
pub struct CatchUpState {
    lock: CatchingUp,
    /// Other hosts wait for this one.
    alone: bool,
    caught_up: CancellationToken,
}

impl CatchUpState {
    pub fn new(lock: CatchingUp, alone: bool) -> Self {
        Self { lock, alone, caught_up: CancellationToken::new() }
    }

    /// Whether the generation is caught up. Any host may have detected this.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up.is_cancelled()
    }

    /// Waits until the generation is caught up. Cancel safe.
    pub async fn caught_up(&self) {
        self.caught_up.cancelled().await;
    }

    /// Whether all hosts share the partitions from now on.
    pub fn is_over(&self, role: Role) -> bool {
        self.is_caught_up() && !(self.alone && role == Role::Building)
    }

    /// Whether this host still has the catch-up lock: a restart of the database takes the lock away.
    pub async fn is_held(&self) -> bool {
        self.lock.is_held().await
    }
}

/// Decides whether this host catches the generation up.
///
/// `Some`: yes; as the only host, if `alone`. If another host does so already, this host waits until that
/// host has made no progress for `patience`, and then works beside it. `None`: all hosts share the
/// partitions, or `stop` is cancelled.
pub async fn turn(
    store: &dyn Store,
    generation: &Generation,
    alone: bool,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<Option<CatchingUp>, StoreError> {
    let projection = &generation.projection;
    let mut last: Option<(Progress, Instant)> = None;
    while !stop.is_cancelled() {
        let progress = match store.catch_up(generation, alone).await? {
            CatchUp::Done => return Ok(None),
            CatchUp::Ours(catching_up) => {
                if alone {
                    tracing::info!(
                        projection,
                        "this host alone builds the generation, because the order between partitions matters"
                    );
                }
                return Ok(Some(catching_up));
            }
            CatchUp::Theirs(progress) => progress,
        };
        match &mut last {
            None => {
                tracing::info!(
                    projection,
                    "another host builds the generation; this host waits until it is caught up"
                );
                last = Some((progress, Instant::now()));
            }
            Some((seen, since)) if progress.is_getting_on_since(seen) => {
                (*seen, *since) = (progress, Instant::now());
            }
            Some((_, since)) if since.elapsed() > patience => {
                tracing::warn!(
                    projection,
                    "the host that builds the generation makes no progress, so this host builds it too: events of different partitions may be applied in another order than they were written"
                );
                return Ok(Some(CatchingUp::beside_others()));
            }
            Some(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(None)
}
