//! Who catches a new generation up: one host alone, where the order between partitions shows in the
//! rows.
//!
//! A consumer merges its partitions by time (see [`source`](crate::source)), but Kafka may give one
//! topic to this host and the other to that one, and the small one would be applied long before the
//! large one. So the others wait until a new generation has come to the end of its topics once. From
//! then on, events are read as they are written, and all hosts share them.
//!
//! Order is worth less than going on: the others do not wait for a host that gets nowhere.
//!
//! When a generation is caught up is decided in [`ends`], for all its lanes and hosts.

mod ends;

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{CatchUp, CatchingUp, Generation, Progress, Store, StoreError};

pub use ends::follow;

/// How often a host that waits asks.
const INTERVAL: Duration = Duration::from_millis(500);

/// A generation that is being caught up, as the lanes of this host share it.
pub struct CatchUpState {
    lock: CatchingUp,
    over: CancellationToken,
}

impl CatchUpState {
    pub fn new(lock: CatchingUp) -> Self {
        Self { lock, over: CancellationToken::new() }
    }

    /// Whether it is caught up, whichever host saw it.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Waits until it is. Cancel safe.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Whether this host may go on alone, if it was to: the database may have been restarted.
    pub async fn is_held(&self) -> bool {
        self.lock.is_held().await
    }
}

/// `Some`: the generation is to be caught up, by this host `alone` if that is asked for; if another host does
/// so, after that host made no progress for as long as `patience`, and then beside it.
/// `None`: it was caught up, or it is time to stop.
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
                        "caught up by this host alone: its columns depend on the order between partitions"
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
            Some((seen, since)) if *seen != progress => (*seen, *since) = (progress, Instant::now()),
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
