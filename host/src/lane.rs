//! The lanes of a projection: several pipelines at the same time, each with its own consumer in the same
//! group and its own transactions.
//!
//! Kafka spreads the partitions over lanes as over hosts, and the checkpoints fence a lane as they fence a
//! host. Only a projection whose batches are independent has more than one lane.

use projector_core::failure::panic_text;
use projector_model::Contract;
use projector_store::Store;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::pipeline::Pipeline;
use crate::retry::RunEnd;

/// How many lanes a projection has: at most `allowed`.
pub fn count(allowed: usize, contract: &Contract, store: &dyn Store) -> usize {
    match contract.needs_one_writer() {
        true => 1,
        false => allowed.min(store.writers()),
    }
}

/// Whether lanes may have to wait for a connection, because other lanes or the reads of the control state
/// use all of them.
pub fn are_short_of_connections(allowed: usize, contract: &Contract, store: &dyn Store) -> bool {
    allowed > 1 && !contract.needs_one_writer() && store.writers() > 1 && allowed >= store.writers()
}

/// Runs lanes until the host stops (`Ok`), or until one of them cannot continue. Then `together` stops the
/// others: their batches in flight are committed or rolled back.
pub async fn run(lanes: Vec<Pipeline>, together: &CancellationToken) -> Result<(), RunEnd> {
    let mut running = JoinSet::new();
    for lane in lanes {
        running.spawn(lane.run());
    }
    let mut result = Ok(());
    while let Some(ended) = running.join_next().await {
        together.cancel();
        // A panic of a lane ends this run of the projection only.
        let crashed = |error: JoinError| match error.try_into_panic() {
            Ok(panic) => Err(RunEnd::Crashed(panic_text(&*panic))),
            Err(error) => Err(RunEnd::Restart(error.to_string())),
        };
        let ended = ended.unwrap_or_else(crashed);
        // A cause that needs a person takes precedence over causes that a new run may fix.
        if result.is_ok() || matches!(ended, Err(RunEnd::Stop(_))) {
            result = ended;
        }
    }
    result
}
