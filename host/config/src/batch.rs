//! `[batch]`: the size of a batch, and how partitions are merged while it is filled.

use std::time::Duration;

use projector_core::batch::BatchLimits;
use serde::Deserialize;

/// The largest batch for one transaction. A batch never waits until it is full.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BatchSettings {
    pub events: usize,
    /// Bytes of the events' keys, values and headers.
    pub bytes: usize,
    /// How far, in record time, a partition may be read ahead of another partition whose next record is not
    /// fetched yet. Applies while a new generation is built, and always if rows depend on the order between
    /// partitions. At zero, records are read strictly in the order of their timestamps.
    #[serde(with = "humantime_serde")]
    pub skew: Duration,
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self { events: 1_000, bytes: 4 * 1024 * 1024, skew: Duration::ZERO }
    }
}

impl BatchSettings {
    pub fn limits(&self) -> BatchLimits {
        BatchLimits { events: self.events, bytes: self.bytes }
    }
}
