//! The lanes of a projection: several pipelines at the same time. Each has its own consumer in the same group, and its
//! own transactions.
//!
//! Kafka assigns the partitions to lanes as it does to hosts. If a lane loses a partition, the comparison of the
//! checkpoint makes its next commit fail, as for a host. Only a projection whose batches are independent of each other
//! has more than one lane.

use projector_core::failure::panic_text;
use projector_model::Contract;
use projector_store::Store;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::pipeline::Pipeline;
use crate::retry::RunEnd;

/// The number of lanes that a projection may have here: at most `allowed`, and at most as many as the store has writers.
pub fn count(allowed: usize, contract: &Contract, store: &dyn Store) -> usize {
    match contract.needs_one_writer() {
        true => 1,
        false => allowed.min(store.writers()),
    }
}

/// Whether the store has too few connections for the lanes: a lane may have to wait while other lanes or the reads of
/// the control state use all connections.
pub fn need_more_connections(allowed: usize, contract: &Contract, store: &dyn Store) -> bool {
    allowed > 1 && !contract.needs_one_writer() && store.writers() > 1 && allowed >= store.writers()
}

/// Runs lanes until the host stops (`Ok`), or until one of them cannot continue. Then `stop_lanes` stops the others:
/// their batches in flight are committed or rolled back.
pub async fn run(lanes: Vec<Pipeline>, stop_lanes: &CancellationToken) -> Result<(), RunEnd> {
    let mut running = JoinSet::new();
    for lane in lanes {
        running.spawn(lane.run());
    }
    let mut result = Ok(());
    while let Some(ended) = running.join_next().await {
        stop_lanes.cancel();
        // A panic in a lane ends this run of the projection, and not the host.
        let crashed = |error: JoinError| match error.try_into_panic() {
            Ok(panic) => Err(RunEnd::Crashed(panic_text(&*panic))),
            Err(error) => Err(RunEnd::Restart(error.to_string())),
        };
        let ended = ended.unwrap_or_else(crashed);
        // If several lanes ended with an error, one that needs a person takes precedence: a new run would not correct
        // it.
        if result.is_ok() || matches!(ended, Err(RunEnd::Stop(_))) {
            result = ended;
        }
    }
    result
}
