//! When events have waited long enough for rows.
//!
//! How long is measured in the time of the events, so that a rebuild decides as the live read model did: a wait is over once
//! every partition of the projection's topics has come further than the event's time and its age, as then no event of
//! the time in between is to come that writes the row. This task looks from time to time, and marks such events as
//! ready; whoever writes next lets them go, and they fail then.
//!
//! Invariant: while a partition cannot be read, no wait ends.

use std::sync::Arc;
use std::time::Duration;

use projector_model::Contract;

use crate::event_time::{EventTimeError, Reach, reaches};
use crate::instant::now_ms;
use crate::retry::{Backoff, Retries};
use crate::source::KafkaAdmin;
use crate::store::event_ids::RecordTime;
use crate::store::{Store, WriteTarget};

const INTERVAL: Duration = Duration::from_secs(2);
/// An event may come into the log so long after its own time: a partition that is at its end is at now less this.
/// In milliseconds.
const SLACK_MS: i64 = 60_000;

/// Ends waits of a generation for as long as it runs: never returns. `active`: the contract of the version that is
/// active now, if it is known. What fails is tried again, and shown as such.
pub async fn keep_ending(
    deployment: &WriteTarget,
    store: &dyn Store,
    log: &KafkaAdmin,
    retries: &Retries,
    active: impl Fn() -> Option<Arc<Contract>>,
) {
    let projection = &*deployment.generation.projection;
    let mut backoff = Backoff::new(projection, retries);
    loop {
        let mut pause = INTERVAL;
        let ended = match active() {
            Some(contract) if contract.waits() => end(deployment, store, log).await,
            _ => Ok(0),
        };
        match ended {
            Ok(ended) => {
                backoff.succeeded();
                if ended > 0 {
                    tracing::info!(projection, events = ended, "events waited long enough for rows");
                }
            }
            Err(error) => {
                let what = format!("whether events waited long enough for rows is not known: {error}");
                backoff.failed(error.kind(), &what);
                pause = backoff.delay();
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Returns how many waits were ended.
async fn end(deployment: &WriteTarget, store: &dyn Store, log: &KafkaAdmin) -> Result<u64, EventTimeError> {
    let Some(first_ms) = store.first_end(&deployment.generation).await? else { return Ok(0) };
    let mut time_ms = now_ms() - SLACK_MS;
    if time_ms <= first_ms {
        return Ok(0);
    }
    let is_past =
        |state: &RecordTime| state.recorded_at.filter(|at| at.div_euclid(1_000) > first_ms).map(Reach::From);
    for topic in log.topics(&deployment.topics).await? {
        for reach in reaches(deployment, store, log, &topic, is_past).await? {
            match reach {
                Reach::Unknown => return Ok(0),
                Reach::Now => {}
                Reach::From(micros) => time_ms = time_ms.min(micros.div_euclid(1_000)),
            }
        }
    }
    match time_ms > first_ms {
        true => Ok(store.end_waits(&deployment.generation, time_ms).await?),
        false => Ok(0),
    }
}
