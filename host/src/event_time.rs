//! How far a generation has come in event time.
//!
//! Event time is the time in the records' timestamps. Each partition has its own: the record time of its last *settled*
//! event, which is the last event whose outcome is committed. A partition at the end of its log counts as being at now,
//! since its next event will not be older. If a partition is not known or cannot be read, its time is unknown.

use std::sync::Arc;

use projector_core::event::Partition;
use projector_core::failure::FailureKind;
use projector_kafka::{KafkaAdmin, LogError};
use projector_store::event_ids::RecordTime;
use projector_store::{Store, StoreError, WriteTarget};

/// Why the event time of a generation is unknown.
#[derive(Debug, thiserror::Error)]
pub enum EventTimeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl EventTimeError {
    pub fn kind(&self) -> FailureKind {
        match self {
            EventTimeError::Store(error) => error.kind(),
            EventTimeError::Log(error) => error.kind(),
        }
    }
}

/// How old the next event of a partition may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Not older than this time, in microseconds since 1970.
    From(i64),
    /// Not older than now.
    Now,
    Unknown,
}

/// The first event of a partition that is not settled yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    None,
    /// An event, with its record time in microseconds since 1970, if it has one.
    Event(Option<i64>),
    Unknown,
}

fn reach(recorded_at: Option<i64>, unread: Unread) -> Reach {
    match (unread, recorded_at) {
        (Unread::Unknown, _) | (Unread::Event(None), None) => Reach::Unknown,
        (Unread::None, _) => Reach::Now,
        (Unread::Event(_), Some(at)) | (Unread::Event(Some(at)), None) => Reach::From(at),
    }
}

/// How far each partition of a topic has come. `settled` returns the answer for a partition whose stored checkpoint
/// alone shows it. For the others, the log is read.
pub async fn reaches(
    deployment: &WriteTarget,
    store: &dyn Store,
    log: &KafkaAdmin,
    topic: &Arc<str>,
    settled: impl Fn(&RecordTime) -> Option<Reach>,
) -> Result<Vec<Reach>, EventTimeError> {
    let partitions = log.partitions([topic.clone()].into()).await?.into_iter().next();
    let Some((_, Ok(partitions))) = partitions else { return Ok(vec![Reach::Unknown]) };
    let states = store.record_times(&deployment.generation, topic).await?;
    let (mut reaches, mut asked) = (Vec::new(), Vec::new());
    for partition in partitions {
        let state = states.iter().find(|state| state.partition == partition.number);
        match state.and_then(&settled) {
            Some(reach) => reaches.push(reach),
            None => asked.push((partition, state)),
        }
    }
    let logs = log.inspect_each(asked.iter().map(|(partition, _)| partition.clone()).collect()).await?;
    for ((partition, state), inspected) in asked.into_iter().zip(logs) {
        let unread = match inspected {
            Ok((marks, _)) => {
                let from = state.map_or(marks.low, |state| state.next_offset.max(marks.low));
                if from < marks.high { first_unread(log, partition, from).await } else { Unread::None }
            }
            Err(_) => Unread::Unknown,
        };
        reaches.push(reach(state.and_then(|state| state.recorded_at), unread));
    }
    Ok(reaches)
}

/// The first event that is not settled, from an offset on. An error counts as unknown and is not returned: the consumer
/// reports the same error.
async fn first_unread(log: &KafkaAdmin, partition: Partition, from: i64) -> Unread {
    match log.first_visible(partition, from).await {
        Ok(None) => Unread::None,
        Ok(Some((_, time_ms))) => Unread::Event(time_ms.map(|ms| ms.saturating_mul(1_000))),
        Err(_) => Unread::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_partition_is_at_now_unless_it_is_behind() {
        assert_eq!(reach(Some(5), Unread::None), Reach::Now);
        assert_eq!(reach(Some(5), Unread::Event(Some(9))), Reach::From(5));
        assert_eq!(reach(None, Unread::Event(Some(9))), Reach::From(9), "no event is settled yet");
        assert_eq!(reach(None, Unread::Event(None)), Reach::Unknown);
        assert_eq!(reach(Some(5), Unread::Unknown), Reach::Unknown);
    }
}
