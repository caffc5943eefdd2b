//! The timestamps of records that were already read.

use super::{COMMITTED, KafkaAdmin, LogError, blocking, place};
use projector_core::event::Partition;

impl KafkaAdmin {
    /// For each partition and offset: the timestamp of the last record before the offset, in milliseconds
    /// since 1970, in the given order. `None` if the log holds no record before the offset, or the record
    /// has no timestamp.
    pub async fn times_before(&self, positions: Vec<(Partition, i64)>) -> Result<Vec<Option<i64>>, LogError> {
        let admin = self.clone();
        blocking(move || {
            positions.iter().map(|(partition, offset)| admin.time_before(partition, *offset)).collect()
        })
        .await
    }

    fn time_before(&self, partition: &Partition, offset: i64) -> Result<Option<i64>, LogError> {
        let low = self.watermarks(partition)?.low;
        // Some offsets hold no record, so go back in growing steps until a record is found. With a larger step, it may
        // not be the last record before the offset, and its timestamp may be earlier than that of the last one. A
        // caller that reads from this time on reads more records than needed, and misses none.
        let (mut from, mut step) = (offset, 1);
        while from > low {
            from = (offset - step).max(low);
            step *= 2;
            let found = self.first(COMMITTED, partition, from, place)?;
            if let Some((_, timestamp_ms)) = found.filter(|(found, _)| *found < offset) {
                return Ok(timestamp_ms);
            }
        }
        Ok(None)
    }
}
