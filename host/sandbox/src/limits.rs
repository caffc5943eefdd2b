//! The limits of a call and of an instance, in wasmtime's units.
//!
//! Fuel and wall time grow with the bytes that a call gets. Memory and tables are limited as sums over an
//! instance, because wasmtime asks for each memory and each table alone.

use projector_config::{EventLimits, InstanceLimits};
use wasmtime::ResourceLimiter;

use super::engine::TICK;

/// The fuel of a call that gets this many bytes.
pub(super) fn fuel_for(limits: &EventLimits, bytes: usize) -> u64 {
    limits.fuel.saturating_add(limits.fuel_per_byte.saturating_mul(bytes as u64))
}

/// The wall time of such a call, in ticks of the engine's epoch. At least two, so that a call which
/// starts just before a tick gets a whole one. At most what the epoch's deadline can hold.
pub(super) fn ticks_for(limits: &EventLimits, bytes: usize) -> u64 {
    let share = fuel_for(limits, bytes) as f64 / limits.fuel.max(1) as f64;
    let milliseconds = limits.time.as_millis() as f64 * share.max(1.0);
    // The conversion saturates.
    let ticks = (milliseconds / TICK.as_millis() as f64) as u64;
    ticks.clamp(1, u32::MAX.into()) + 1
}

/// Limits the sum of an instance's memories, and the sum of its tables, and remembers which limit was
/// exceeded: the guest's own trap that follows does not contain the reason.
pub(super) struct MemoryLimiter {
    memory: Sum,
    tables: Sum,
    /// The limit that was exceeded last: `memory` or `table`.
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
    pub(super) fn new(limits: &InstanceLimits) -> Self {
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
    use std::time::Duration;

    use super::*;

    fn limiter() -> MemoryLimiter {
        MemoryLimiter::new(&InstanceLimits { memory_bytes: 100, table_elements: 10, stack_bytes: 0 })
    }

    #[test]
    fn a_call_gets_fuel_and_time_by_its_bytes() {
        let limits = EventLimits {
            fuel: 1_000,
            fuel_per_byte: 10,
            time: Duration::from_millis(200),
            ..EventLimits::default()
        };
        assert_eq!(TICK, Duration::from_millis(20));
        assert_eq!((fuel_for(&limits, 0), ticks_for(&limits, 0)), (1_000, 11));
        // Twice the fuel, and so twice the time.
        assert_eq!((fuel_for(&limits, 100), ticks_for(&limits, 100)), (2_000, 21));
        let none = EventLimits { fuel: u64::MAX, time: Duration::ZERO, ..limits };
        assert_eq!((fuel_for(&none, 100), ticks_for(&none, 100)), (u64::MAX, 2));
    }

    #[test]
    fn memories_count_together() {
        let mut limiter = limiter();
        let mut may = |current, desired| limiter.memory_growing(current, desired, None).expect("answered");
        assert!(may(0, 60));
        assert!(!may(0, 60), "a second one");
        assert!(may(0, 40));
        assert!(!may(40, 41));
        assert_eq!(limiter.refused, Some("memory"));
    }

    #[test]
    fn a_growth_that_failed_does_not_count() {
        let mut limiter = limiter();
        assert!(limiter.table_growing(0, 10, None).expect("answered"));
        limiter.table_grow_failed(wasmtime::Error::msg("no memory")).expect("handled");
        limiter.table_grow_failed(wasmtime::Error::msg("no memory")).expect("handled");
        assert!(limiter.table_growing(0, 10, None).expect("answered"));
        assert!(!limiter.table_growing(10, 11, None).expect("answered"));
        assert_eq!(limiter.refused, Some("table"));
    }
}
