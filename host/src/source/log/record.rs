//! One record, read from the log again: one that was left there because its value was too large.

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use super::{COMMITTED, KafkaAdmin, LogError, blocking};
use crate::checkpoint::Identity;
use crate::event::{Partition, Position};

/// What the log holds at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recalled {
    Value(Option<Vec<u8>>),
    /// The value is larger than any may be now.
    TooLarge {
        bytes: usize,
    },
    /// Retention or compaction removed it.
    Gone,
    /// The log is not the one that the position is about.
    OtherLog {
        stored: Identity,
        found: Identity,
    },
}

impl KafkaAdmin {
    /// What the value of a record may weigh.
    pub fn value_bytes(&self) -> usize {
        self.connection.kafka().value_bytes
    }

    /// The value of the record at a position of the log that `stored` names. It takes some seconds at most.
    pub async fn recall(&self, position: Position, stored: Identity) -> Result<Recalled, LogError> {
        let log = self.clone();
        blocking(move || {
            let Position { partition, offset } = &position;
            let marks = log.marks(partition)?;
            let found = match (marks.low..marks.high).contains(offset) {
                true => log.record_at(partition, *offset)?,
                false => Recalled::Gone,
            };
            // Afterwards: a topic never becomes again what it was, so it was the same while it was read.
            let topics = [partition.topic.clone()];
            let found_in =
                log.ask_identities(&topics)?.remove(&*partition.topic).transpose()?.unwrap_or_default();
            match stored.differs_from(&found_in) {
                true => Ok(Recalled::OtherLog { stored, found: found_in }),
                false => Ok(found),
            }
        })
        .await
    }

    fn record_at(&self, partition: &Partition, offset: i64) -> Result<Recalled, LogError> {
        let found = self.first(COMMITTED, partition, offset, |message| {
            (message.offset() == offset).then(|| value(message, self.value_bytes()))
        })?;
        Ok(found.flatten().unwrap_or(Recalled::Gone))
    }
}

fn value(message: &BorrowedMessage<'_>, most: usize) -> Recalled {
    match message.payload() {
        Some(value) if value.len() > most => Recalled::TooLarge { bytes: value.len() },
        value => Recalled::Value(value.map(<[u8]>::to_vec)),
    }
}
