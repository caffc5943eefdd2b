//! Which host builds a new generation: a single host, if the order between partitions matters.
//!
//! The order matters if the rows depend on it, or if the effect or the rejection of an event depends on rows that
//! events of other partitions write. A consumer merges its partitions by time (see [`projector_kafka`]). But if several
//! hosts are in the consumer group, each host merges only its own partitions. So one host takes the *catch-up lock* and
//! reads all partitions. The other hosts wait until the generation is caught up and, if it is built beside the live
//! one, until it is live. After that, all hosts share the partitions, and events are read as they arrive.
//!
//! Progress is more important than order: if the host with the lock makes no progress, the waiting hosts join it.
//!
//! `ends` decides when a generation is caught up, for all its lanes and hosts.

mod ends;

use std::time::Duration;

use projector_core::generation::{Generation, Role};
use projector_kafka::{MergeOrder, Merging};
use projector_model::{Contract, order};
use projector_store::{CatchUp, CatchUpProgress, CatchingUp, Store, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use ends::watch;

/// How often a waiting host asks the store for the catch-up lock.
const INTERVAL: Duration = Duration::from_millis(500);

/// Whether a single host builds the projection's generations: because rows depend on the order between partitions, or
/// because each batch must see the rows of the batches before it. In the second case, batches are written one after the
/// other, so more hosts would not be faster.
pub fn needs_one_host(contract: &Contract) -> bool {
    contract.needs_one_writer() || depends_on_order(contract)
}

/// Whether rows depend on the order between partitions. If so, partitions that are behind are merged by time even after
/// the generation is caught up.
pub fn depends_on_order(contract: &Contract) -> bool {
    !order::unsettled(contract).is_empty()
}

/// How a projection's partitions are merged, while the generation catches up and afterwards.
pub fn merging(contract: &Contract, is_caught_up: bool, skew: Duration) -> Merging {
    let then = match depends_on_order(contract) {
        true => MergeOrder::TimeWhileBehind,
        false => MergeOrder::Arrival,
    };
    let order = match is_caught_up {
        true => then,
        false if needs_one_host(contract) => MergeOrder::Time,
        false => MergeOrder::TimeWhileBehind,
    };
    Merging { order, then, skew }
}

/// Whether a generation is caught up. The lanes of this host share it.
pub struct CatchUpState {
    lock: CatchingUp,
    /// This host builds the generation alone, and the other hosts wait.
    alone: bool,
    caught_up: CancellationToken,
}

impl CatchUpState {
    pub fn new(lock: CatchingUp, alone: bool) -> Self {
        Self { lock, alone, caught_up: CancellationToken::new() }
    }

    /// Whether the generation is caught up. This host or another one may have detected it.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up.is_cancelled()
    }

    /// Waits until the generation is caught up. Cancel safe.
    pub async fn caught_up(&self) {
        self.caught_up.cancelled().await;
    }

    /// Whether all hosts share the partitions from now on: the generation is caught up, and is not built by one host
    /// alone beside the live one.
    pub fn is_over(&self, role: Role) -> bool {
        self.is_caught_up() && !(self.alone && role == Role::Building)
    }

    /// Whether this host still has the catch-up lock. A restart of the database releases it.
    pub async fn is_held(&self) -> bool {
        self.lock.is_held().await
    }
}

/// Waits until this host may run the generation.
///
/// `Some`: the generation is not caught up, and this host catches it up, as the only host if `alone`. While another host
/// builds the generation alone, this host waits. If the other host makes no progress for `patience`, this host works
/// beside it. `None`: the generation is caught up, so all hosts share the partitions; or `stop` is cancelled.
pub async fn wait_for_turn(
    store: &dyn Store,
    generation: &Generation,
    alone: bool,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<Option<CatchingUp>, StoreError> {
    let projection = &generation.projection;
    let mut last: Option<(CatchUpProgress, Instant)> = None;
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
            Some((seen, since)) if progress.has_progressed_since(seen) => {
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
