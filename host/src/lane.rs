//! The lanes of a projection: pipelines side by side, each a member of the same consumer group with
//! a transaction of its own.
//!
//! Kafka spreads the partitions over lanes just as it does over hosts, and the checkpoints fence a
//! lane as they fence a host. Only a projection whose batches need not see each other has several.

use projector_model::Contract;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::failure::panic_text;
use crate::pipeline::Pipeline;
use crate::retry::RunEnd;
use crate::store::Store;

/// How many lanes a projection has, of those that the platform allows it.
pub fn count(allowed: usize, contract: &Contract, store: &dyn Store) -> usize {
    match contract.needs_one_writer() {
        true => 1,
        false => allowed.min(store.writers()),
    }
}

/// Whether lanes wait for a connection that another one has, or that the host asks with what is wanted.
pub fn are_short_of_connections(allowed: usize, contract: &Contract, store: &dyn Store) -> bool {
    allowed > 1 && !contract.needs_one_writer() && store.writers() > 1 && allowed >= store.writers()
}

/// Runs lanes until the host stops (`Ok`), or one of them cannot go on; `together` then stops the
/// others, whose batches in flight are settled or let go.
pub async fn run(lanes: Vec<Pipeline>, together: &CancellationToken) -> Result<(), RunEnd> {
    let mut running = JoinSet::new();
    for lane in lanes {
        running.spawn(lane.run());
    }
    let mut result = Ok(());
    while let Some(ended) = running.join_next().await {
        together.cancel();
        // A lane that panics ends this run of the projection, and no other.
        let crashed = |error: JoinError| match error.try_into_panic() {
            Ok(panic) => Err(RunEnd::Crashed(panic_text(&*panic))),
            Err(error) => Err(RunEnd::Restart(error.to_string())),
        };
        let ended = ended.unwrap_or_else(crashed);
        // What only a person can mend is worth more than what a new start may.
        if result.is_ok() || matches!(ended, Err(RunEnd::Stop(_))) {
            result = ended;
        }
    }
    result
}
