//! What a new generation would read: where it starts, how many events that is, and which events it cannot read any
//! more.
//!
//! Nothing is changed. A topic or partition that the brokers do not describe is named with the reason, and the others
//! are counted without it.

use std::collections::HashMap;

use projector_config::{Config, StartAt};
use projector_core::failure::FailureKind;
use projector_core::generation::GenerationStatus;
use projector_core::topics::TopicMapping;
use projector_kafka::{KafkaAdmin, LogError};
use projector_sandbox::Plugin;
use projector_store::checkpoints::EarlierStarts;
use projector_store::{PartitionState, Store};
use serde::Serialize;

use super::{OperationError, Progress};
use crate::deploy::reach::{Begin, BeyondReach, Gaps};
use crate::start_offsets::Starts;

/// The events per second that the estimate of a replay assumes.
const REPLAY_RATE: f64 = 10_000.0;

/// What a new generation is built from.
#[derive(Debug, Serialize)]
pub struct Replay {
    pub events: i64,
    /// At 10,000 events per second, times `rebuild-share`.
    pub estimated_seconds: f64,
    /// The configured start.
    pub start: String,
    /// Where each partition begins.
    pub starts: Vec<PartitionStart>,
    /// Why the configured start cannot be used: the generation would not start.
    pub start_problem: Option<String>,
    /// The events that the live generation has read and this one cannot read. Absent without a live generation.
    pub beyond_reach: Option<BeyondReach>,
    /// Partitions whose first events Kafka has deleted, with their first offset.
    pub log_begins_later: Vec<(String, i64)>,
    pub missing_topics: Vec<String>,
    /// Topics and partitions that are unknown, and why. Those that do not exist are among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// Where a new generation would begin to read a partition.
#[derive(Debug, Serialize)]
pub struct PartitionStart {
    pub topic: String,
    pub partition: i32,
    /// The first offset of the log, and the one after its last.
    pub log_begin: i64,
    pub log_end: i64,
    /// Absent if the configured start is not in the log.
    pub start: Option<i64>,
    /// Why the partition would not be read.
    pub problem: Option<String>,
}

/// How far a generation has read its partitions.
pub(super) async fn what_was_read(
    store: &dyn Store,
    status: &GenerationStatus,
) -> Result<Vec<PartitionState>, OperationError> {
    let mut all = store.overview().await?.into_iter();
    let found = all.find(|state| state.is(&status.generation));
    Ok(found.map(|state| state.partitions).unwrap_or_default())
}

/// What a new generation would read of a plugin's topics. `live`: what the live generation has read, if there is one.
pub(super) async fn replay(
    config: &Config,
    plugin: &Plugin,
    topics: &TopicMapping,
    live: Option<&[PartitionState]>,
    earlier: &EarlierStarts,
) -> Result<Replay, OperationError> {
    let log = KafkaAdmin::open(&config.kafka)?;
    let starts = Starts::of(config, plugin.contract.name(), topics);
    let mut replay = Replay {
        events: 0,
        estimated_seconds: 0.0,
        start: starts.to_string(),
        starts: Vec::new(),
        start_problem: starts.unknown_topic(),
        beyond_reach: None,
        log_begins_later: Vec::new(),
        missing_topics: Vec::new(),
        unknown: Vec::new(),
    };
    let mut unknown_topics: HashMap<String, Begin> = HashMap::new();
    let mut begins: HashMap<(String, i32), Begin> = HashMap::new();
    for physical in log.topics(topics).await? {
        let partitions = match log.topic_each(physical.clone()).await {
            // This topic is unknown: plan with the others.
            Err(LogError::Fault(fault)) if !fault.is_everywhere() => {
                let begin = match fault.kind() {
                    FailureKind::NoTopic => {
                        replay.missing_topics.push(physical.to_string());
                        Begin::Nowhere
                    }
                    _ => Begin::Unknown(fault.reason()),
                };
                unknown_topics.insert(physical.to_string(), begin);
                let logical: Vec<&str> = topics.logical(&physical).collect();
                let called = match &logical[..] {
                    [] => String::new(),
                    [own] if **own == *physical => String::new(),
                    others => format!(" ({})", others.join(", ")),
                };
                replay.unknown.push(format!("topic {physical}{called}: {}", fault.reason()));
                continue;
            }
            partitions => partitions?,
        };
        let mut identities = log.identities_each(vec![physical.clone()]).await?;
        let identity = identities.remove(&*physical).and_then(Result::ok).unwrap_or_default();
        for (partition, marks) in partitions {
            let place = (partition.topic.to_string(), partition.number);
            let marks = match marks {
                Ok(marks) => marks,
                Err(fault) => {
                    begins.insert(place, Begin::Unknown(fault.reason()));
                    replay.unknown.push(fault.to_string());
                    continue;
                }
            };
            let found = match starts.find(&log, &partition, (marks, &identity), earlier).await {
                Err(LogError::Fault(fault)) if !fault.is_everywhere() => {
                    begins.insert(place, Begin::Unknown(fault.reason()));
                    replay.unknown.push(fault.to_string());
                    continue;
                }
                found => found?,
            };
            let is_another_log = earlier.get(&partition).is_some_and(|(_, of)| of.differs_from(&identity));
            let begin = match &found {
                _ if is_another_log => Begin::Nowhere,
                Ok(offset) => Begin::At(*offset),
                Err(problem) => Begin::Unknown(problem.to_string()),
            };
            begins.insert(place, begin);
            replay.events += found.as_ref().map_or(0, |start| marks.high - start);
            if marks.low > 0 && starts.of_topic(&physical) == StartAt::Earliest {
                replay.log_begins_later.push((partition.to_string(), marks.low));
            }
            replay.starts.push(PartitionStart {
                topic: physical.to_string(),
                partition: partition.number,
                log_begin: marks.low,
                log_end: marks.high,
                start: found.as_ref().ok().copied(),
                problem: found.err().map(|problem| problem.to_string()),
            });
        }
    }
    replay.beyond_reach = live.map(|live| {
        BeyondReach::of(live, |topic, number| {
            let known = || begins.get(&(topic.to_owned(), number)).or_else(|| unknown_topics.get(topic));
            topics.reads(topic).then(|| known().cloned().unwrap_or(Begin::Nowhere))
        })
    });
    let share =
        if live.is_some() { config.deploy_of(plugin.contract.name()).rebuild_share.max(0.01) } else { 1.0 };
    replay.estimated_seconds = replay.events as f64 / (REPLAY_RATE * share);
    Ok(replay)
}

/// Refuses a generation that cannot read all that the live one has read, unless the operator accepts the gap.
pub(super) fn check_gap(
    replay: &Replay,
    name: &str,
    gaps: Gaps,
    progress: Progress<'_>,
) -> Result<(), OperationError> {
    match &replay.beyond_reach {
        Some(beyond) if !beyond.is_empty() && gaps == Gaps::Refuse => {
            Err(OperationError::Failed(beyond.refusal(name)))
        }
        Some(beyond) if !beyond.is_empty() => {
            progress(&format!("{}; the generation is built without these events", beyond.to_text()));
            Ok(())
        }
        _ => Ok(()),
    }
}
