//! Limits of an instance, and their enforcement while it runs.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use super::engine::TICK;

/// Limits of one plugin, from the configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Fuel for one call for one event, and additional fuel for each byte that the call gets.
    pub fuel: u64,
    pub fuel_per_byte: u64,
    /// Wall time for one call for one event; longer in proportion if the call has more fuel.
    pub time: Duration,
    /// Fuel and wall time after which a batch ends.
    pub batch_fuel: u64,
    pub batch_time: Duration,
    /// Bytes of answers, and of rows found, after which a batch ends.
    pub batch_bytes: usize,
    pub memory_bytes: usize,
    pub table_elements: usize,
    /// Most changes of one event.
    pub changes: usize,
    /// Most bytes of the answers for one event.
    pub output_bytes: usize,
    /// Most lookups of one event in one round.
    pub lookups: usize,
    /// Most bytes of the rows that are found for one event, in all its rounds.
    pub found_bytes: usize,
    /// Most log lines per second.
    pub log_lines: usize,
    /// The share of batches whose calls are repeated and compared.
    pub purity_sample: f64,
}

impl From<&projector_config::Limits> for Limits {
    fn from(config: &projector_config::Limits) -> Self {
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
    /// The fuel of a call that gets this many bytes.
    pub(super) fn fuel_for(&self, bytes: usize) -> u64 {
        self.fuel.saturating_add(self.fuel_per_byte.saturating_mul(bytes as u64))
    }

    /// The wall time of such a call, in ticks of the engine's epoch. At least two, so that a call which
    /// starts just before a tick gets a whole one. At most what the epoch's deadline can hold.
    pub(super) fn ticks_for(&self, bytes: usize) -> u64 {
        let share = self.fuel_for(bytes) as f64 / self.fuel.max(1) as f64;
        let milliseconds = self.time.as_millis() as f64 * share.max(1.0);
        // The conversion saturates.
        let ticks = (milliseconds / TICK.as_millis() as f64) as u64;
        ticks.clamp(1, u32::MAX.into()) + 1
    }
}

/// Limits the sum of an instance's memories, and the sum of its tables, and remembers which limit was
/// exceeded: the guest's own trap that follows does not tell the reason.
pub(super) struct MemoryLimiter {
    memory: Sum,
    tables: Sum,
    /// `memory` or `table`.
    pub(super) refused: Option<&'static str>,
}

/// The size of all memories of an instance in bytes, or of all its tables in elements.
struct Sum {
    now: usize,
    most: usize,
    /// What the last growth added. Taken back if the growth fails after it was permitted.
    added: usize,
}

impl Sum {
    fn may_grow(&mut self, current: usize, desired: usize) -> bool {
        let added = desired.saturating_sub(current);
        let grown = self.now.saturating_add(added);
        let allowed = grown <= self.most;
        if allowed {
            (self.now, self.added) = (grown, added);
        }
        allowed
    }

    fn take_back(&mut self) {
        self.now -= std::mem::take(&mut self.added);
    }
}

impl MemoryLimiter {
    pub(super) fn new(limits: &Limits) -> Self {
        let up_to = |most| Sum { now: 0, most, added: 0 };
        Self { memory: up_to(limits.memory_bytes), tables: up_to(limits.table_elements), refused: None }
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = self.memory.may_grow(current, desired);
        if !allowed {
            self.refused = Some("memory");
        }
        Ok(allowed)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory.take_back();
        tracing::debug!(%error, "a plugin's memory could not grow");
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = self.tables.may_grow(current, desired);
        if !allowed {
            self.refused = Some("table");
        }
        Ok(allowed)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.tables.take_back();
        tracing::debug!(%error, "a plugin's table could not grow");
        Ok(())
    }

    fn instances(&self) -> usize {
        50
    }

    fn tables(&self) -> usize {
        50
    }

    fn memories(&self) -> usize {
        10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth() -> MemoryLimiter {
        let limits = projector_config::Limits { memory_bytes: 100, table_elements: 10, ..Default::default() };
        MemoryLimiter::new(&Limits::from(&limits))
    }

    #[test]
    fn memories_count_together() {
        let mut growth = growth();
        let mut may = |current, desired| growth.memory_growing(current, desired, None).expect("answered");
        assert!(may(0, 60));
        assert!(!may(0, 60), "a second one");
        assert!(may(0, 40));
        assert!(!may(40, 41));
        assert_eq!(growth.refused, Some("memory"));
    }

    #[test]
    fn what_could_not_grow_does_not_count() {
        let mut growth = growth();
        assert!(growth.table_growing(0, 10, None).expect("answered"));
        growth.table_grow_failed(wasmtime::Error::msg("no memory")).expect("taken");
        growth.table_grow_failed(wasmtime::Error::msg("no memory")).expect("taken");
        assert!(growth.table_growing(0, 10, None).expect("answered"));
        assert!(!growth.table_growing(10, 11, None).expect("answered"));
        assert_eq!(growth.refused, Some("table"));
    }
}
