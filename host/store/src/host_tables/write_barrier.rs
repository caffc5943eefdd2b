//! How the write barrier of a generation is stored.

use projector_core::checkpoint::Offsets;
use projector_core::event::Partition;

use crate::error::StoreError;
use crate::write_barrier::WriteBarrier;

/// The columns of a generation that its write barrier consists of.
pub(crate) struct BarrierRow {
    /// False as well after the time for which the barrier was raised.
    is_raised: bool,
    /// Offsets in JSON. `None`: no batch may be written.
    up_to: Option<String>,
}

from_row! { BarrierRow { is_raised, up_to } }

impl BarrierRow {
    pub(crate) fn barrier(&self) -> Result<WriteBarrier, StoreError> {
        Ok(match (self.is_raised, &self.up_to) {
            (false, _) => WriteBarrier::Open,
            (true, Some(json)) => WriteBarrier::UpTo(offsets_from_json(json)?),
            (true, None) => WriteBarrier::Closed,
        })
    }
}

pub(crate) fn offsets_json(offsets: &Offsets) -> String {
    let list: Vec<(&str, i32, i64)> =
        offsets.iter().map(|(partition, next)| (&*partition.topic, partition.number, *next)).collect();
    serde_json::to_string(&list).expect("texts and numbers")
}

fn offsets_from_json(json: &str) -> Result<Offsets, StoreError> {
    let list: Vec<(String, i32, i64)> = serde_json::from_str(json)
        .map_err(|error| StoreError::Unusable(format!("the stored offsets of a write barrier: {error}")))?;
    Ok(list.into_iter().map(|(topic, number, next)| (Partition::new(topic.as_str(), number), next)).collect())
}
