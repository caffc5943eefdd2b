//! How current a read model is, asked of the store and of the log, never of the pipeline.

use serde::Serialize;
use tokio::task::JoinSet;

use crate::checkpoint::Watermarks;
use crate::event::Partition;
use crate::failure::{Blocker, FailureKind};
use crate::source::{KafkaAdmin, LogError};

/// Questions about single partitions that are under way at once.
const AT_ONCE: usize = 16;

/// What stands between a partition's checkpoint and the end of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Visibility {
    /// The last stable offset: where a reader of committed events ends.
    pub log_end: i64,
    /// Events, at most, that are committed in the log and not in the read model. Offsets that hold
    /// no event (commit markers, aborted or compacted events) behind the first one are counted;
    /// zero if and only if a `read_committed` fetch from the checkpoint on finds nothing.
    pub lag: i64,
    /// Age of the oldest of them by its own timestamp, in milliseconds, never negative. Zero when
    /// there is none; absent when it has no timestamp.
    pub freshness_ms: Option<i64>,
    /// Age of the transaction that is open at the log's end, by its first record's timestamp, in
    /// milliseconds: what was written behind it is not visible, and is in no lag, before it ends.
    pub open_transaction_ms: Option<i64>,
}

/// What could be found out of a partition: its visibility, and why that is not known, or not all of it.
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

/// Visibility of each partition from its checkpoint on, in the order asked. One that cannot be read keeps
/// no other unknown.
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
    let panicked = || Seen::unknown(Blocker::new(FailureKind::Crash, "the question about it panicked"));
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
    let trouble = |error: LogError| Blocker::new(error.kind(), error);
    let (open_transaction_ms, mut unknown) = match log.open_transaction(partition.clone()).await {
        Ok(open) => (open.map(age), None),
        Err(error) => (None, Some(trouble(error))),
    };
    let mut seen = Visibility { log_end: marks.high, lag: 0, freshness_ms: Some(0), open_transaction_ms };
    if checkpoint < marks.high {
        // What retention removed cannot be fetched; what is left is counted from there.
        let from = checkpoint.max(marks.low);
        match log.first_visible(partition, from).await {
            Ok(None) => {}
            Ok(Some((offset, timestamp_ms))) => {
                seen.lag = marks.high - offset;
                seen.freshness_ms = timestamp_ms.map(age);
            }
            // There may be events, or none: so many at most, and nobody knows how old.
            Err(error) => {
                seen.lag = marks.high - from;
                seen.freshness_ms = None;
                unknown = Some(trouble(error));
            }
        }
    }
    Seen { visibility: Some(seen), unknown }
}
