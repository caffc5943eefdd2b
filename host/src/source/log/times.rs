//! The time of records that were read already.

use super::{COMMITTED, KafkaAdmin, LogError, blocking, place};
use crate::event::Partition;

impl KafkaAdmin {
    /// For each partition and offset: the time of the last record before the offset, in milliseconds since
    /// 1970, in the order asked. `None`: the log holds no record before it, or the record has no time.
    pub async fn times_before(&self, asked: Vec<(Partition, i64)>) -> Result<Vec<Option<i64>>, LogError> {
        let log = self.clone();
        blocking(move || {
            asked.iter().map(|(partition, offset)| log.time_before(partition, *offset)).collect()
        })
        .await
    }

    fn time_before(&self, partition: &Partition, offset: i64) -> Result<Option<i64>, LogError> {
        let low = self.marks(partition)?.low;
        // Offsets may hold no record: steps grow until one is found. It may not be the last one then, and its
        // time not the latest: whoever begins there reads more, and misses nothing.
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
