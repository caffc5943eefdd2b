//! The status of one generation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use projector_config::Config;
use projector_core::checkpoint::Watermarks;
use projector_core::counters::Counters;
use projector_core::event::Partition;
use projector_core::failure::{Blocker, FailureKind};
use projector_core::generation::Role;
use projector_core::instant::now_ms;
use projector_core::topics::TopicMapping;
use projector_store::source_topics::RecordedTopic;
use projector_store::{PartitionState, Projection};

use super::super::OperationError;
use super::brokers::Brokers;
use super::{
    ActiveVersion, Counts, Faults, PartitionStatus, Progress, ProjectionStatus, RowsStatus, Shown,
    TopicStatus, Topics, UnknownTopic,
};
use crate::freshness::{Seen, visibility};
use crate::start_offsets::Starts;

/// A generation that is behind is stuck when no checkpoint has moved for this many seconds.
const STUCK_AFTER: i64 = 30;

/// All topics that are read, and those that do not match any more.
fn topic_statuses(mapping: &TopicMapping, read: &[Arc<str>], recorded: &[RecordedTopic]) -> Vec<TopicStatus> {
    let names = read.iter().map(|topic| &**topic).chain(recorded.iter().map(|recorded| &*recorded.topic));
    let names: BTreeSet<&str> = names.collect();
    let status = |topic: &str| {
        let recorded = recorded.iter().find(|recorded| recorded.topic == topic);
        TopicStatus {
            topic: topic.to_owned(),
            logical: mapping.logical(topic).map(str::to_owned).collect(),
            since_ms: recorded.map(|recorded| recorded.joined_at / 1_000),
            left_ms: recorded.and_then(|recorded| recorded.left_at).map(|at| at / 1_000),
        }
    };
    names.into_iter().map(status).collect()
}

pub(super) async fn of_projection(
    config: &Config,
    brokers: &mut Brokers,
    Shown { mapping, recorded, views, versions, live_hosts }: Shown,
    projection: Projection,
) -> Result<ProjectionStatus, OperationError> {
    let mut stored: HashMap<(String, i32), PartitionState> = projection
        .partitions
        .into_iter()
        .map(|state| ((state.topic.clone(), state.partition), state))
        .collect();
    let mut asked: Vec<(Partition, i64, Watermarks)> = Vec::new();
    let mut unknown_topics = Vec::new();
    let mut of_log: Vec<Partition> = Vec::new();
    let mut seen: HashMap<Partition, Seen> = HashMap::new();
    let starts = Starts::of(config, &projection.name, &mapping);
    // Why partitions without a checkpoint cannot start.
    let mut not_begun: HashMap<Partition, Blocker> = HashMap::new();
    let read = brokers.topics(&mapping, &recorded).await;
    let topics = topic_statuses(&mapping, &read, &recorded);
    for physical in read {
        let was_read = stored.keys().any(|(topic, _)| **topic == *physical);
        match brokers.topic(physical.clone(), was_read).await {
            Err(why) => {
                let logical = mapping.logical(&physical).collect::<Vec<_>>().join(", ");
                let topic = physical.to_string();
                unknown_topics.push(UnknownTopic { topic, logical, why });
            }
            Ok(partitions) => {
                for (partition, marks) in partitions {
                    of_log.push(partition.clone());
                    let checkpoint = stored.get(&(partition.topic.to_string(), partition.number));
                    match marks {
                        Ok(marks) => {
                            let existed = projection.began_with.as_ref();
                            let existed = existed.is_none_or(|existed| existed.contains(&partition));
                            let from = match checkpoint {
                                Some(state) => Ok(state.checkpoint),
                                None if !existed => Ok(marks.low),
                                None => brokers.first_offset(&starts, &partition, marks).await,
                            };
                            let from = from.unwrap_or_else(|blocker| {
                                not_begun.insert(partition.clone(), blocker);
                                marks.low
                            });
                            asked.push((partition, from, marks));
                        }
                        Err(why) => drop(seen.insert(partition, Seen::unknown(why))),
                    }
                }
            }
        }
    }
    let of_missing =
        |topic: &&UnknownTopic| matches!(topic.why.kind, FailureKind::NoTopic | FailureKind::TopicDeleted);
    let missing_topics = unknown_topics.iter().filter(of_missing).map(|topic| topic.topic.clone()).collect();
    let created_ms = projection.created_at / 1_000;
    let now_ms = now_ms();
    let partitions: Vec<Partition> = asked.iter().map(|(partition, ..)| partition.clone()).collect();
    seen.extend(partitions.into_iter().zip(visibility(&brokers.log, asked, now_ms).await));
    // The store also has counters of partitions that are not in Kafka, or of topics that are unknown.
    let elsewhere = stored.values().map(|state| Partition::new(state.topic.as_str(), state.partition));
    let mut elsewhere: Vec<Partition> = elsewhere.filter(|partition| !seen.contains_key(partition)).collect();
    elsewhere.sort();
    for partition in &elsewhere {
        let of_topic = unknown_topics.iter().find(|unknown| *unknown.topic == *partition.topic);
        let unknown = of_topic.map(|unknown| unknown.why.clone());
        seen.insert(partition.clone(), Seen { visibility: None, unknown });
    }
    let mut counters = Counters::default();
    let [mut ignored_by_code, mut dead_by_code, mut skipped_by_code] = [const { BTreeMap::new() }; 3];
    let mut statuses: Vec<PartitionStatus> = Vec::new();
    for partition in of_log.into_iter().chain(elsewhere) {
        let Some(Seen { visibility, unknown }) = seen.remove(&partition) else { continue };
        let state = stored.remove(&(partition.topic.to_string(), partition.number));
        let own = state.as_ref().map(|state| state.counters).unwrap_or_default();
        counters += own;
        if let Some(state) = &state {
            add(&mut ignored_by_code, &state.ignored_by_code);
            add(&mut dead_by_code, &state.dead_by_code);
            add(&mut skipped_by_code, &state.skipped_by_code);
        }
        statuses.push(PartitionStatus {
            topic: partition.topic.to_string(),
            partition: partition.number,
            checkpoint: state.as_ref().map(|state| state.checkpoint),
            start: state.as_ref().map(|state| state.start),
            before_start: state.as_ref().map_or(0, |state| state.before_start),
            visibility,
            counters: own,
            paused: match state {
                Some(state) => state.paused,
                None => not_begun.remove(&partition),
            },
            unknown,
        });
    }
    let visible = || statuses.iter().filter_map(|status| status.visibility);
    let lag: i64 = visible().map(|visible| visible.lag).sum();
    let seconds = (now_ms - created_ms).max(1) as f64 / 1_000.0;
    let building = (projection.role == Role::Building).then(|| {
        let rate = counters.read as f64 / seconds;
        let stands_still = match &projection.blocker {
            Some(blocker) => Some(blocker.reason.clone()),
            None => why_stuck(&statuses, &unknown_topics, projection.idle_seconds, live_hosts),
        };
        let remaining_seconds = (rate > 0.0 && stands_still.is_none()).then(|| lag as f64 / rate);
        Progress { events_per_second: rate, remaining_seconds, stands_still }
    });
    let behind = || visible().filter(|visible| visible.lag > 0);
    let all_known = unknown_topics.is_empty() && statuses.iter().all(|status| status.unknown.is_none());
    let freshness_ms = match behind().count() {
        _ if !all_known => None,
        0 => Some(0),
        _ => behind().filter_map(|visible| visible.freshness_ms).max(),
    };
    let missing_events = counters.parked + counters.waiting + counters.dead;
    Ok(ProjectionStatus {
        name: projection.name,
        generation: projection.generation,
        role: projection.role,
        active: ActiveVersion {
            version: projection.active.version,
            digest: projection.active.digest,
            on_trial: versions.on_trial,
            reverted: versions.reverted,
        },
        views,
        rows: RowsStatus {
            fresh: lag == 0 && all_known && statuses.iter().all(|status| status.paused.is_none()),
            complete: missing_events == 0,
            missing_events,
            waits: projection.missing.waits,
            oldest_missing_ms: projection
                .missing
                .oldest_missing
                .map(|recorded_ms| (now_ms - recorded_ms).max(0)),
            freshness_ms,
            lag,
        },
        building,
        faults: Faults {
            halted: projection.blocker,
            impure: projection.faults.impure,
            deadlocks: projection.faults.deadlocks,
        },
        counts: Counts {
            counters,
            before_start: statuses.iter().map(|status| status.before_start).sum(),
            ignored_by_code,
            dead_by_code,
            skipped_by_code,
            dead_letters: projection.missing.dead_letters,
            without_id: projection.faults.without_id,
            statements: projection.statements,
        },
        partitions: statuses,
        topics: Topics { topics, missing_topics, unknown_topics },
        beside: Vec::new(),
    })
}

/// Why a generation that is behind does not progress: a topic is unknown, or no checkpoint has moved for a while.
/// `None`: it progresses, or has nothing to read.
fn why_stuck(
    partitions: &[PartitionStatus],
    unknown_topics: &[UnknownTopic],
    idle_seconds: i64,
    live_hosts: usize,
) -> Option<String> {
    let is_behind =
        partitions.iter().any(|of| of.visibility.map_or(of.unknown.is_some(), |visible| visible.lag > 0));
    let mut unknown =
        unknown_topics.iter().map(|unknown| format!("{}: {}", unknown.topic, unknown.why.reason));
    if !is_behind {
        return unknown
            .next()
            .map(|why| format!("the generation cannot catch up while a topic is unknown: {why}"));
    }
    if idle_seconds < STUCK_AFTER {
        return None;
    }
    let of_partition = |of: &PartitionStatus| {
        let why = of.paused.as_ref().or(of.unknown.as_ref())?;
        Some(format!("{}/{}: {}", of.topic, of.partition, why.reason))
    };
    let why = match partitions.iter().find_map(of_partition).or_else(|| unknown.next()) {
        Some(why) => why,
        None if live_hosts == 0 => "no host is live".into(),
        None => "see the logs of the hosts".into(),
    };
    Some(format!("no event was applied for {idle_seconds} s: {why}"))
}

fn add(all: &mut BTreeMap<String, i64>, some: &BTreeMap<String, i64>) {
    for (code, events) in some {
        *all.entry(code.clone()).or_default() += events;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freshness::Visibility;

    fn partition(lag: i64, paused: Option<&str>) -> PartitionStatus {
        PartitionStatus {
            topic: "t".into(),
            partition: 0,
            checkpoint: Some(7),
            start: Some(0),
            before_start: 0,
            visibility: Some(Visibility {
                log_end: 7 + lag,
                lag,
                freshness_ms: None,
                open_transaction_ms: None,
            }),
            counters: Counters::default(),
            paused: paused.map(|reason| Blocker::new(FailureKind::Log, reason)),
            unknown: None,
        }
    }

    #[test]
    fn a_generation_that_is_stuck_has_a_reason() {
        let missing = || {
            let why = Blocker::new(FailureKind::NoTopic, "it does not exist");
            [UnknownTopic { topic: "u".into(), logical: "u".into(), why }]
        };
        let (short, long) = (STUCK_AFTER - 1, STUCK_AFTER);
        // The generation progresses, or has nothing to read.
        assert_eq!(why_stuck(&[partition(3, None)], &[], short, 1), None);
        assert_eq!(why_stuck(&[partition(0, None)], &[], long, 1), None);
        let why = |partitions: &[PartitionStatus], unknown: &[UnknownTopic], idle, hosts| {
            why_stuck(partitions, unknown, idle, hosts).expect("it is stuck")
        };
        assert!(why(&[partition(3, None)], &[], long, 1).contains("for 30 s"));
        assert!(why(&[partition(3, None)], &[], long, 0).contains("no host is live"));
        let paused = [partition(3, None), partition(3, Some("another log"))];
        assert!(why(&paused, &[], long, 1).contains("t/0: another log"));
        assert!(why(&[partition(3, None)], &missing(), long, 1).contains("u: it does not exist"));
        // All known partitions are read to their ends.
        assert!(why(&[partition(0, None)], &missing(), short, 1).contains("u: it does not exist"));
    }
}
