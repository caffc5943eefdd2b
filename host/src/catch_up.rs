//! Who catches a generation up: one host alone, where the order between partitions shows in the rows.
//!
//! A consumer merges its partitions by time (see [`source`](crate::source)), but Kafka may give one
//! topic to this host and the other to that one, and the small one would be applied long before the
//! large one. So the others wait until a new generation has come to the end of its topics once. From
//! then on, events are read as they are written, and all hosts share them.

use std::time::Duration;

use projector_model::{Contract, order};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{CatchUp, Generation, Solo, Store, StoreError};

/// How often a host that waits asks.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long the other host may get nowhere: its brokers may be out of its reach alone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits while another host catches the generation up and gets on with it. `Some`: it is for this
/// host to do, alone as long as this lives. `None`: it is to be read along with others, or it is time
/// to stop.
pub async fn turn(
    store: &dyn Store,
    generation: &Generation,
    contract: &Contract,
    stop: &CancellationToken,
) -> Result<Option<Solo>, StoreError> {
    if !order::shows_in_rows(contract) {
        return Ok(None);
    }
    let projection = &generation.projection;
    let mut last: Option<(i64, Instant)> = None;
    while !stop.is_cancelled() {
        let events = match store.catch_up(generation).await? {
            CatchUp::Done => return Ok(None),
            CatchUp::Ours(solo) => {
                tracing::info!(
                    projection,
                    "caught up by this host alone: its columns depend on the order between partitions"
                );
                return Ok(Some(solo));
            }
            CatchUp::Theirs { events } => events,
        };
        match &mut last {
            None => {
                tracing::info!(projection, "another host catches it up; this one joins then");
                last = Some((events, Instant::now()));
            }
            Some((seen, since)) if *seen != events => (*seen, *since) = (events, Instant::now()),
            Some((_, since)) if since.elapsed() > PATIENCE => {
                tracing::warn!(
                    projection,
                    "the host that catches it up gets nowhere; this one joins, so events of different partitions may be applied in another order than they were written"
                );
                return Ok(None);
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
