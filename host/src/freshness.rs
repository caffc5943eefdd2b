//! How current a read model is, asked of the store and of the log, never of the pipeline.

use serde::Serialize;
use tokio::task::JoinSet;

use crate::checkpoint::Marks;
use crate::event::Partition;
use crate::source::{Log, LogError};

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

/// Visibility of each partition from its checkpoint on, in the order asked.
pub async fn visibility(
    log: &Log,
    asked: Vec<(Partition, i64, Marks)>,
    now_ms: i64,
) -> Result<Vec<Visibility>, LogError> {
    let mut answers = vec![None; asked.len()];
    let mut under_way = JoinSet::new();
    for (at, (partition, checkpoint, marks)) in asked.into_iter().enumerate() {
        if under_way.len() >= AT_ONCE {
            collect(&mut under_way, &mut answers).await?;
        }
        let log = log.clone();
        under_way.spawn(async move { (at, of_partition(&log, partition, checkpoint, marks, now_ms).await) });
    }
    while !under_way.is_empty() {
        collect(&mut under_way, &mut answers).await?;
    }
    Ok(answers.into_iter().flatten().collect())
}

async fn collect(
    under_way: &mut JoinSet<(usize, Result<Visibility, LogError>)>,
    answers: &mut [Option<Visibility>],
) -> Result<(), LogError> {
    match under_way.join_next().await {
        Some(Ok((at, answer))) => answers[at] = Some(answer?),
        Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        None => {}
    }
    Ok(())
}

async fn of_partition(
    log: &Log,
    partition: Partition,
    checkpoint: i64,
    marks: Marks,
    now_ms: i64,
) -> Result<Visibility, LogError> {
    let age = |timestamp: i64| (now_ms - timestamp).max(0);
    let open_transaction_ms = log.open_transaction(partition.clone()).await?.map(age);
    let fresh = Visibility { log_end: marks.high, lag: 0, freshness_ms: Some(0), open_transaction_ms };
    if checkpoint >= marks.high {
        return Ok(fresh);
    }
    // What retention removed cannot be fetched; what is left is counted from there.
    let Some((offset, timestamp_ms)) = log.first_visible(partition, checkpoint.max(marks.low)).await? else {
        return Ok(fresh);
    };
    Ok(Visibility { lag: marks.high - offset, freshness_ms: timestamp_ms.map(age), ..fresh })
}
