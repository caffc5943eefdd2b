//! Who builds a new generation: one host alone, where the order between partitions matters.
//!
//! It matters where rows show it, and where what an event does, or whether it is rejected, depends on rows that
//! events of other partitions write. A consumer merges its partitions by time (see [`source`](crate::source)), but
//! Kafka may give one topic to this host and the other to that one, and each host would merge its own alone. So the
//! others wait until a new generation is caught up and, if it is built beside the live one, until readers see it:
//! as long as it is built, no partition goes from one host to another while events are written.
//! From then on all hosts share the partitions, and events are read as they arrive.
//!
//! Order is worth less than going on: the others do not wait for a host that gets nowhere.
//!
//! When a generation is caught up is decided in [`ends`], for all its lanes and hosts.

mod ends;

use std::time::Duration;

use projector_model::{Contract, order};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::source::{MergeOrder, Merging};
use crate::store::deployments::Role;
use crate::store::{CatchUp, CatchingUp, Generation, Progress, Store, StoreError};

pub use ends::follow;

/// How often a host that waits asks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Whether the order between partitions matters to a projection: one host alone builds its generations.
/// Where a batch must see those before it, more hosts would not be faster either.
pub fn needs_order(contract: &Contract) -> bool {
    contract.needs_one_writer() || order_shows(contract)
}

/// Whether rows show the order between partitions, so that it is kept as well as possible for ever.
pub fn order_shows(contract: &Contract) -> bool {
    !order::unsettled(contract).is_empty()
}

/// How a projection's partitions are merged, in a generation that is being caught up or in another one.
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

/// A generation that is being caught up, as the lanes of this host share it.
pub struct CatchUpState {
    lock: CatchingUp,
    /// Others wait for this host.
    alone: bool,
    caught_up: CancellationToken,
}

impl CatchUpState {
    pub fn new(lock: CatchingUp, alone: bool) -> Self {
        Self { lock, alone, caught_up: CancellationToken::new() }
    }

    /// Whether it is caught up, whichever host saw it.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up.is_cancelled()
    }

    /// Waits until it is. Cancel safe.
    pub async fn caught_up(&self) {
        self.caught_up.cancelled().await;
    }

    /// Whether all hosts share it from now on.
    pub fn is_over(&self, role: Role) -> bool {
        self.is_caught_up() && !(self.alone && role == Role::Building)
    }

    /// Whether this host may go on alone, if it was to: the database may have been restarted.
    pub async fn is_held(&self) -> bool {
        self.lock.is_held().await
    }
}

/// `Some`: the generation is to be caught up, by this host `alone` if that is asked for; if another host does
/// so, after that host made no progress for as long as `patience`, and then beside it.
/// `None`: all hosts share it, or it is time to stop.
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
                        "caught up by this host alone: the order between partitions matters"
                    );
                }
                return Ok(Some(catching_up));
            }
            CatchUp::Theirs(progress) => progress,
        };
        match &mut last {
            None => {
                tracing::info!(projection, "another host catches it up; this one joins then");
                last = Some((progress, Instant::now()));
            }
            Some((seen, since)) if progress.is_getting_on_since(seen) => {
                (*seen, *since) = (progress, Instant::now());
            }
            Some((_, since)) if since.elapsed() > patience => {
                tracing::warn!(
                    projection,
                    "the host that catches it up gets nowhere; this one joins, so events of different partitions may be applied in another order than they were written"
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
