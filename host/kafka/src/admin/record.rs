//! Reads one record from the log again, by its position. Needed for a record whose value was too large to be stored
//! with its dead letter.
//!
//! Invariant: a value is returned only if the log is still the one that the position belongs to.

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use super::{COMMITTED, KafkaAdmin, LogError, blocking};
use projector_core::checkpoint::Identity;
use projector_core::event::{Partition, Position};

/// What the log holds at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recalled {
    Value(Option<Vec<u8>>),
    /// The value is larger than `kafka.value-bytes`.
    TooLarge {
        bytes: usize,
    },
    /// Retention or compaction removed it.
    Gone,
    /// The log is not the log that the position belongs to.
    OtherLog {
        stored: Identity,
        found: Identity,
    },
}

impl KafkaAdmin {
    /// The largest value that is read: `kafka.value-bytes`.
    pub fn value_bytes(&self) -> usize {
        self.connection.kafka().value_bytes
    }

    /// The value of the record at a position of the log `stored`. Takes some seconds at most.
    pub async fn recall(&self, position: Position, stored: Identity) -> Result<Recalled, LogError> {
        let admin = self.clone();
        blocking(move || {
            let Position { partition, offset } = &position;
            let watermarks = admin.watermarks(partition)?;
            let found = match (watermarks.low..watermarks.high).contains(offset) {
                true => admin.record_at(partition, *offset)?,
                false => Recalled::Gone,
            };
            // The topic id is read after the record. A topic id is never used twice: if the topic still has the
            // expected id, the record came from the expected log.
            let topics = [partition.topic.clone()];
            let found_in =
                admin.ask_identities(&topics)?.remove(&*partition.topic).transpose()?.unwrap_or_default();
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

fn value(message: &BorrowedMessage<'_>, most_bytes: usize) -> Recalled {
    match message.payload() {
        Some(value) if value.len() > most_bytes => Recalled::TooLarge { bytes: value.len() },
        value => Recalled::Value(value.map(<[u8]>::to_vec)),
    }
}
