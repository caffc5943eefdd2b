//! What an instance may use, enforced while it runs.

use std::time::Duration;

use wasmtime::{ResourceLimiter, StoreLimits, StoreLimitsBuilder};

use super::engine::TICK;

/// Limits of one plugin, from the configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Fuel for one call of one event, and more for each byte that it is given.
    pub fuel: u64,
    pub fuel_per_byte: u64,
    /// Wall time for one call of one event, and more in the proportion in which it has more fuel.
    pub time: Duration,
    /// Fuel and wall time after which a batch ends.
    pub batch_fuel: u64,
    pub batch_time: Duration,
    /// Bytes of answers, and of rows found, after which a batch ends.
    pub batch_bytes: usize,
    pub memory_bytes: usize,
    pub table_elements: usize,
    /// Changes that one event may lead to.
    pub changes: usize,
    /// Bytes that one event may answer with.
    pub output_bytes: usize,
    /// Lookups that one event may ask for in one round.
    pub lookups: usize,
    /// Bytes of the rows that may be found for one event, in all its rounds.
    pub found_bytes: usize,
    /// Lines that may be logged in a second.
    pub log_lines: usize,
    /// The share of batches whose calls are made again.
    pub purity_sample: f64,
}

impl From<&crate::config::Limits> for Limits {
    fn from(config: &crate::config::Limits) -> Self {
        Self {
            fuel: config.fuel,
            fuel_per_byte: config.fuel_per_byte,
            time: config.time,
            batch_fuel: config.batch_fuel,
            batch_time: config.batch_time,
            batch_bytes: config.batch_bytes,
            memory_bytes: config.memory_bytes,
            table_elements: config.table_elements,
            changes: config.changes,
            output_bytes: config.output_bytes,
            lookups: config.lookups,
            found_bytes: config.found_bytes,
            log_lines: config.log_lines,
            purity_sample: config.purity_sample,
        }
    }
}

impl Limits {
    /// The fuel of a call that is given so many bytes.
    pub(super) fn fuel_for(&self, bytes: usize) -> u64 {
        self.fuel.saturating_add(self.fuel_per_byte.saturating_mul(bytes as u64))
    }

    /// The wall time of such a call in ticks of the engine's epoch, at least two, so that a call which
    /// begins just before a tick has a whole one; and no more than a clock can be ahead.
    pub(super) fn ticks_for(&self, bytes: usize) -> u64 {
        let share = self.fuel_for(bytes) as f64 / self.fuel.max(1) as f64;
        let milliseconds = self.time.as_millis() as f64 * share.max(1.0);
        // A float beyond an integer becomes the largest one.
        let ticks = (milliseconds / TICK.as_millis() as f64) as u64;
        ticks.clamp(1, u32::MAX.into()) + 1
    }
}

/// Bounds an instance's memory and tables, and remembers which bound it hit: what follows is a trap
/// of the guest's own, which says nothing about the reason.
pub(super) struct Growth {
    limits: StoreLimits,
    /// `memory` or `table`.
    pub(super) refused: Option<&'static str>,
}

impl Growth {
    pub(super) fn new(limits: &Limits) -> Self {
        let limits = StoreLimitsBuilder::new()
            .memory_size(limits.memory_bytes)
            .table_elements(limits.table_elements)
            .instances(50)
            .memories(10)
            .tables(50)
            .build();
        Self { limits, refused: None }
    }
}

impl ResourceLimiter for Growth {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = self.limits.memory_growing(current, desired, maximum)?;
        if !allowed {
            self.refused = Some("memory");
        }
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = self.limits.table_growing(current, desired, maximum)?;
        if !allowed {
            self.refused = Some("table");
        }
        Ok(allowed)
    }

    fn instances(&self) -> usize {
        self.limits.instances()
    }

    fn tables(&self) -> usize {
        self.limits.tables()
    }

    fn memories(&self) -> usize {
        self.limits.memories()
    }
}
