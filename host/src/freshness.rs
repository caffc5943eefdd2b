//! How current a read model is, from its checkpoints in the store and from the log. Works without a running host.

use projector_core::checkpoint::Watermarks;
use projector_core::event::Partition;
use projector_core::failure::{Blocker, FailureKind};
use projector_kafka::{KafkaAdmin, LogError};
use serde::Serialize;
use tokio::task::JoinSet;

/// The brokers are asked about at most this many partitions at the same time.
const AT_ONCE: usize = 16;

/// The events between a partition's checkpoint and the end of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Visibility {
    /// The last stable offset: a consumer with `read_committed` reads up to here.
    pub log_end: i64,
    /// The number of events that are committed in the log and not in the read model. An upper bound: after the first
    /// such event, offsets without an event (commit markers, aborted or compacted events) count too. Zero if and only
    /// if a `read_committed` fetch from the checkpoint returns no event.
    pub lag: i64,
    /// Age of the oldest of these events by its timestamp, in milliseconds, never negative. Zero if there
    /// is no event; `None` if the event has no timestamp.
    pub freshness_ms: Option<i64>,
    /// Age of the producer's transaction that is open at the end of the log, by the timestamp of its first
    /// record, in milliseconds. Events after this record are not visible, and not in `lag`, before the
    /// transaction ends.
    pub open_transaction_ms: Option<i64>,
}

/// What is known about the visibility of a partition. `unknown`: why it is not known, or not completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub visibility: Option<Visibility>,
    pub unknown: Option<Blocker>,
}

impl Seen {
    pub fn unknown(why: Blocker) -> Self {
        Self { visibility: None, unknown: Some(why) }
    }
}

/// The visibility of each partition from its checkpoint on, in the order of `asked`. A partition that cannot be read
/// does not affect the others.
pub async fn visibility(
    log: &KafkaAdmin,
    asked: Vec<(Partition, i64, Watermarks)>,
    now_ms: i64,
) -> Vec<Seen> {
    let mut answers: Vec<Option<Seen>> = vec![None; asked.len()];
    let mut under_way = JoinSet::new();
    for (at, (partition, checkpoint, marks)) in asked.into_iter().enumerate() {
        if under_way.len() >= AT_ONCE {
            collect(&mut under_way, &mut answers).await;
        }
        let log = log.clone();
        under_way.spawn(async move { (at, of_partition(&log, partition, checkpoint, marks, now_ms).await) });
    }
    while !under_way.is_empty() {
        collect(&mut under_way, &mut answers).await;
    }
    let panicked = || {
        Seen::unknown(Blocker::new(FailureKind::Crash, "the task that asked about this partition panicked"))
    };
    answers.into_iter().map(|answer| answer.unwrap_or_else(panicked)).collect()
}

async fn collect(under_way: &mut JoinSet<(usize, Seen)>, answers: &mut [Option<Seen>]) {
    if let Some(Ok((at, answer))) = under_way.join_next().await {
        answers[at] = Some(answer);
    }
}

async fn of_partition(
    log: &KafkaAdmin,
    partition: Partition,
    checkpoint: i64,
    marks: Watermarks,
    now_ms: i64,
) -> Seen {
    let age = |timestamp: i64| (now_ms - timestamp).max(0);
    let blocker = |error: LogError| Blocker::new(error.kind(), error);
    let (open_transaction_ms, mut unknown) = match log.open_transaction(partition.clone()).await {
        Ok(open) => (open.map(age), None),
        Err(error) => (None, Some(blocker(error))),
    };
    let mut seen = Visibility { log_end: marks.high, lag: 0, freshness_ms: Some(0), open_transaction_ms };
    if checkpoint < marks.high {
        // Events that retention has removed cannot be fetched: count from the beginning of the log.
        let from = checkpoint.max(marks.low);
        match log.first_visible(partition, from).await {
            Ok(None) => {}
            Ok(Some((offset, timestamp_ms))) => {
                seen.lag = marks.high - offset;
                seen.freshness_ms = timestamp_ms.map(age);
            }
            // It is unknown whether there are events: `lag` is the upper bound, and their age is unknown.
            Err(error) => {
                seen.lag = marks.high - from;
                seen.freshness_ms = None;
                unknown = Some(blocker(error));
            }
        }
    }
    Seen { visibility: Some(seen), unknown }
}
