//! Deletes the stored ids of handled events when their window has passed.
//!
//! The ids detect a producer's duplicates. An id must be stored as long as a duplicate of its event may arrive, in any
//! partition of the topic, at any lane or host. Partitions advance at different speeds: during a rebuild or after an
//! outage, one may be weeks ahead of another. So a batch never deletes ids. Instead, this task checks all partitions of
//! a topic at intervals, and deletes the ids that are outside the window of every partition.
//!
//! Invariants: if a partition of a topic is unknown or cannot be read, no id of the topic is deleted. The window of a
//! partition is counted back from the record time of its last *settled* event: the last event whose outcome is
//! committed. A partition that has been at the end of its log for a whole window, without a new event, keeps no id from
//! being deleted. A record time in the future counts as now.

use std::sync::Arc;
use std::time::Duration;

use projector_core::topics::TopicMapping;
use projector_kafka::KafkaAdmin;
use projector_model::Contract;
use projector_store::event_ids::{Horizon, RecordTime};
use projector_store::{Store, WriteTarget};

use crate::event_time::{EventTimeError, Reach, reaches};
use crate::retry::{Backoff, Retries};

/// The pause between two rounds of deletes.
const INTERVAL: Duration = Duration::from_secs(15);
/// One statement deletes at most this many ids, so that it ends long before the statement timeout.
const AT_ONCE: u64 = 10_000;

/// Deletes old ids of a generation for as long as the generation runs; never returns. `active`: the contract of the
/// active version, if it is known. A failed round is repeated after a backoff, and is shown as a retry.
pub async fn delete_old_ids(
    deployment: &WriteTarget,
    store: &dyn Store,
    log: &KafkaAdmin,
    retries: &Retries,
    active: impl Fn() -> Option<Arc<Contract>>,
) {
    let mut backoff = Backoff::new(&deployment.generation.projection, retries);
    loop {
        let mut pause = INTERVAL;
        if let Some(contract) = active() {
            match forget(deployment, store, log, &contract).await {
                Ok(forgotten) => {
                    backoff.succeeded();
                    if forgotten > 0 {
                        let projection = &*deployment.generation.projection;
                        tracing::debug!(projection, forgotten, "deleted old ids of handled events");
                    }
                }
                Err(error) => {
                    let what = format!("cannot delete old ids of handled events: {error}");
                    backoff.failed(error.kind(), &what);
                    pause = backoff.delay();
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// One round of deletes. Returns the number of deleted ids.
async fn forget(
    deployment: &WriteTarget,
    store: &dyn Store,
    log: &KafkaAdmin,
    contract: &Contract,
) -> Result<u64, EventTimeError> {
    let mut forgotten = 0;
    if contract.topics.iter().all(|topic| topic.event_id.is_none()) {
        return Ok(forgotten);
    }
    for topic in log.topics(&deployment.topics).await? {
        let Some(window_seconds) = window(contract, &deployment.topics, &topic) else { continue };
        let settled = |state: &RecordTime| reach_of_checkpoint(state, window_seconds);
        let reaches = reaches(deployment, store, log, &topic, settled).await?;
        let Some(time) = horizon(&reaches) else { continue };
        let horizon = Horizon { time, window_seconds };
        loop {
            let some = store.forget_ids(&deployment.generation, &topic, horizon, AT_ONCE as i64).await?;
            forgotten += some;
            if some < AT_ONCE {
                break;
            }
        }
    }
    Ok(forgotten)
}

/// The window of a physical topic's ids: the longest one that any of its logical topics declares. `None` if
/// its events have no ids.
fn window(contract: &Contract, topics: &TopicMapping, physical: &str) -> Option<u32> {
    let declared = topics.places(physical).into_iter().filter_map(|place| {
        contract.topics.get(usize::from(place)).and_then(|topic| topic.event_id.as_ref())
    });
    declared.map(|id| id.window_seconds).max()
}

/// How far a partition has come, if its stored checkpoint alone shows this: an event was settled within the last window.
/// Otherwise the partition may be at the end of its log or behind, and only the log shows which.
fn reach_of_checkpoint(state: &RecordTime, window_seconds: u32) -> Option<Reach> {
    let is_moving = state.idle_seconds <= i64::from(window_seconds);
    state.recorded_at.filter(|_| is_moving).map(Reach::From)
}

/// The time of a [`Horizon`] for partitions that have come this far: that of the partition that is furthest behind, or
/// `None` if all are at now. No horizon if a partition is unknown: then nothing may be deleted.
fn horizon(reaches: &[Reach]) -> Option<Option<i64>> {
    let mut time = None;
    for reach in reaches {
        match reach {
            Reach::Unknown => return None,
            Reach::Now => {}
            Reach::From(at) => time = Some(time.map_or(*at, |time: i64| time.min(*at))),
        }
    }
    Some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(recorded_at: Option<i64>, idle_seconds: i64) -> RecordTime {
        RecordTime { partition: 0, next_offset: 7, recorded_at, idle_seconds }
    }

    #[test]
    fn a_partition_that_moves_holds_ids_back_by_its_last_event() {
        assert_eq!(reach_of_checkpoint(&state(Some(5), 60), 60), Some(Reach::From(5)));
        assert_eq!(
            reach_of_checkpoint(&state(Some(5), 61), 60),
            None,
            "only the log shows whether more events follow"
        );
        assert_eq!(reach_of_checkpoint(&state(None, 0), 60), None);
    }

    #[test]
    fn the_partition_that_is_furthest_behind_decides() {
        assert_eq!(horizon(&[Reach::From(9), Reach::Now, Reach::From(5)]), Some(Some(5)));
        assert_eq!(horizon(&[Reach::Now, Reach::Now]), Some(None));
        assert_eq!(horizon(&[Reach::From(5), Reach::Unknown]), None);
    }

    #[test]
    fn ids_of_several_logical_topics_are_kept_for_the_longest_window() {
        let topic = |name: &str, id: serde_json::Value| serde_json::json!({"name": name, "statements": ["put"], "event-id": id});
        let id = |seconds: u32| serde_json::json!({"header": "x", "window-seconds": seconds});
        let descriptor = serde_json::json!({
            "name": "t", "version": "1",
            "topics": [topic("a", id(60)), topic("b", id(600)), topic("c", serde_json::Value::Null)],
            "tables": [{"name": "t", "key": ["id"], "columns": [{"name": "id", "type": "int64"}]}],
            "statements": [{"name": "put", "table": "t", "kind": "upsert"}],
        });
        let contract = projector_model::Descriptor::from_json(&descriptor.to_string())
            .and_then(projector_model::Descriptor::check)
            .expect("a valid descriptor");
        let named = |name: &str| projector_core::topics::PhysicalTopics::named(name).expect("legal");
        let topics = TopicMapping::new([
            ("a".to_owned(), named("shared")),
            ("b".to_owned(), named("shared")),
            ("c".to_owned(), named("other")),
        ]);
        assert_eq!(window(&contract, &topics, "shared"), Some(600));
        assert_eq!(window(&contract, &topics, "other"), None);
    }
}
