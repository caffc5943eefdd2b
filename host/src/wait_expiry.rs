//! Ends the waits of events whose row was not written in time.
//!
//! A wait is measured in event time, so that a rebuild decides as the live read model did. A wait has expired when
//! every partition of the projection's topics has passed the event's time plus the topic's waiting time: then no event
//! can write the row in time any more. At intervals, this task marks such events as ready. A lane then takes them
//! between two batches, and they fail with the kind `not-yet`.
//!
//! Invariant: while a partition cannot be read, no wait expires.

use std::sync::Arc;
use std::time::Duration;

use projector_core::instant::now_ms;
use projector_kafka::KafkaAdmin;
use projector_model::Contract;
use projector_store::event_ids::RecordTime;
use projector_store::{Store, WriteTarget};

use crate::event_time::{EventTimeError, Reach, reaches};
use crate::retry::{Backoff, Retries};

const INTERVAL: Duration = Duration::from_secs(2);
/// In milliseconds. An event may reach the log this much later than its timestamp. So a partition at the end of its log
/// counts as being at now minus this time.
const SLACK_MS: i64 = 60_000;

/// Ends expired waits of a generation for as long as the generation runs; never returns. `active`: the contract of the
/// active version, if it is known. A failure is retried after a backoff, and is shown as a retry.
pub async fn expire_waits(
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
                    tracing::info!(
                        projection,
                        events = ended,
                        "events have waited for a row for too long, and fail"
                    );
                }
            }
            Err(error) => {
                let what = format!("cannot find out which events have waited for too long: {error}");
                backoff.failed(error.kind(), &what);
                pause = backoff.delay();
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Ends the waits that have expired by now. Returns how many these are.
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
