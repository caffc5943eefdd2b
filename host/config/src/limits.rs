//! `[limits]`: what a plugin may use.
//!
//! The table is flat in the file, and has a structure for each thing that it limits: an event, a batch, an
//! instance, a component. An event that exceeds a limit for events fails. A batch that reaches a limit for
//! batches ends after the current event.
//!
//! The table is read key by key instead of with serde's `flatten`, which loses the lines of errors and
//! accepts unknown keys.

use std::fmt;
use std::time::Duration;

use humantime_serde::Serde;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::kafka::VALUE_BYTES;
use super::share::Share;

/// The largest stack of a guest: host functions that it calls need the rest of the thread's stack.
pub const MOST_STACK_BYTES: usize = 1024 * 1024;

const MIB: usize = 1024 * 1024;

/// What a plugin may use.
#[derive(Debug, Clone)]
pub struct Limits {
    pub event: EventLimits,
    pub batch: BatchBudget,
    pub instance: InstanceLimits,
    pub component: ComponentLimits,
    /// Most log lines of a plugin per second, for all its instances and lanes together.
    pub log_lines: usize,
    /// The share of batches, from 0 to 1, whose events are projected twice to check that the plugin is a
    /// pure function. The first batch of a run is always checked, unless the share is 0.
    pub purity_sample: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event: EventLimits::default(),
            batch: BatchBudget::default(),
            instance: InstanceLimits::default(),
            component: ComponentLimits::default(),
            log_lines: 100,
            purity_sample: 0.001,
        }
    }
}

/// The limits for one event. An event that exceeds one of them fails.
#[derive(Debug, Clone)]
pub struct EventLimits {
    /// Wasm fuel for one call for one event: about one unit per instruction. For scale: an order of the
    /// plugin order-search takes about 35,000 for its first call, and 50,000 for the call with the
    /// customer's row.
    pub fuel: u64,
    /// Additional fuel for each byte of the event's key, value and headers, and of the rows that were found
    /// for it. For scale: reading an order and writing its items takes about 100 per byte.
    pub fuel_per_byte: u64,
    /// Wall time for one call for one event; longer, in proportion, if the event's bytes give it more fuel.
    /// This limit is only for what fuel does not measure. A busy host may exceed it without a fault of the
    /// plugin, so the batch is tried again.
    pub time: Duration,
    /// Most row changes of one event.
    pub changes: usize,
    /// Most bytes of the answers for one event. The default is twice the largest value.
    pub output_bytes: usize,
    /// Most lookups of one event in each of its rounds.
    pub lookups: usize,
    /// Most bytes of the rows that are found for one event, in all its rounds.
    pub found_bytes: usize,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self {
            fuel: 100_000_000,
            fuel_per_byte: 250,
            time: Duration::from_secs(2),
            changes: 10_000,
            output_bytes: 2 * VALUE_BYTES,
            lookups: 100,
            found_bytes: 4 * VALUE_BYTES,
        }
    }
}

/// What all calls of a batch may use together. A batch that reaches one of these ends, however few events
/// it has, so that it does not hold its locks and partitions for too long. First calls, which are made
/// before the transaction, and calls with rows, which are made in it, are counted separately.
#[derive(Debug, Clone)]
pub struct BatchBudget {
    /// `batch-fuel`.
    pub fuel: u64,
    /// `batch-time`: wall time.
    pub time: Duration,
    /// `batch-bytes`: bytes of answers; and bytes of the rows that are found for a batch.
    pub bytes: usize,
}

impl Default for BatchBudget {
    fn default() -> Self {
        Self { fuel: 1_000_000_000, time: Duration::from_secs(2), bytes: VALUE_BYTES }
    }
}

/// What one instance of a component may use.
#[derive(Debug, Clone)]
pub struct InstanceLimits {
    /// Linear memory of an instance: the sum of all its memories.
    pub memory_bytes: usize,
    /// Wasm stack of a call, at most [`MOST_STACK_BYTES`].
    pub stack_bytes: usize,
    /// Elements of an instance's tables: the sum of all tables.
    pub table_elements: usize,
}

impl Default for InstanceLimits {
    fn default() -> Self {
        Self { memory_bytes: 16 * VALUE_BYTES, stack_bytes: MIB / 2, table_elements: 20_000 }
    }
}

/// The limits for a component's file, and for its compilation.
#[derive(Debug, Clone)]
pub struct ComponentLimits {
    /// `component-bytes`: largest size of a component.
    pub bytes: usize,
    /// Largest size of the plugin's descriptor. Hundreds of tables stay far below the default.
    pub descriptor_bytes: usize,
    /// Most time and memory for the compilation of a component.
    pub compile_time: Duration,
    pub compile_memory_bytes: u64,
}

impl Default for ComponentLimits {
    fn default() -> Self {
        Self {
            bytes: 32 * MIB,
            descriptor_bytes: MIB,
            compile_time: Duration::from_secs(60),
            compile_memory_bytes: 4 * 1024 * MIB as u64,
        }
    }
}

/// The keys of the table, in the order in which an error lists them.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "kebab-case")]
enum Key {
    Fuel,
    FuelPerByte,
    Time,
    BatchFuel,
    BatchTime,
    BatchBytes,
    MemoryBytes,
    StackBytes,
    TableElements,
    Changes,
    OutputBytes,
    Lookups,
    FoundBytes,
    LogLines,
    PuritySample,
    ComponentBytes,
    DescriptorBytes,
    CompileTime,
    CompileMemoryBytes,
}

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Table)
    }
}

struct Table;

impl<'de> Visitor<'de> for Table {
    type Value = Limits;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of limits")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Limits, A::Error> {
        let mut limits = Limits::default();
        let Limits { event, batch, instance, component, log_lines, purity_sample } = &mut limits;
        // A value is checked while it is read, so that an error has the value's line.
        while let Some(key) = table.next_key()? {
            match key {
                Key::Fuel => event.fuel = table.next_value()?,
                Key::FuelPerByte => event.fuel_per_byte = table.next_value()?,
                Key::Time => event.time = table.next_value::<Serde<Duration>>()?.into_inner(),
                Key::BatchFuel => batch.fuel = table.next_value()?,
                Key::BatchTime => batch.time = table.next_value::<Serde<Duration>>()?.into_inner(),
                Key::BatchBytes => batch.bytes = table.next_value()?,
                Key::MemoryBytes => instance.memory_bytes = table.next_value()?,
                Key::StackBytes => instance.stack_bytes = table.next_value::<StackBytes>()?.0,
                Key::TableElements => instance.table_elements = table.next_value()?,
                Key::Changes => event.changes = table.next_value()?,
                Key::OutputBytes => event.output_bytes = table.next_value()?,
                Key::Lookups => event.lookups = table.next_value()?,
                Key::FoundBytes => event.found_bytes = table.next_value()?,
                Key::LogLines => *log_lines = table.next_value()?,
                Key::PuritySample => *purity_sample = table.next_value::<Share>()?.0,
                Key::ComponentBytes => component.bytes = table.next_value()?,
                Key::DescriptorBytes => component.descriptor_bytes = table.next_value()?,
                Key::CompileTime => {
                    component.compile_time = table.next_value::<Serde<Duration>>()?.into_inner()
                }
                Key::CompileMemoryBytes => component.compile_memory_bytes = table.next_value()?,
            }
        }
        Ok(limits)
    }
}

/// At most [`MOST_STACK_BYTES`].
struct StackBytes(usize);

impl<'de> Deserialize<'de> for StackBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match usize::deserialize(deserializer)? {
            bytes @ ..=MOST_STACK_BYTES => Ok(Self(bytes)),
            _ => {
                let message = format!("`stack-bytes` is too large: at most {MOST_STACK_BYTES}");
                Err(D::Error::custom(message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Limits, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn each_key_sets_its_own_field() {
        let limits = parse(
            "fuel = 1\nfuel-per-byte = 2\ntime = '3s'\nbatch-fuel = 4\nbatch-time = '5s'\nbatch-bytes = 6\n\
             memory-bytes = 7\nstack-bytes = 8\ntable-elements = 9\nchanges = 10\noutput-bytes = 11\n\
             lookups = 12\nfound-bytes = 13\nlog-lines = 14\npurity-sample = 0.5\ncomponent-bytes = 15\n\
             descriptor-bytes = 16\ncompile-time = '17s'\ncompile-memory-bytes = 18\n",
        )
        .expect("sound");
        let seconds = Duration::from_secs;
        let event = &limits.event;
        assert_eq!((event.fuel, event.fuel_per_byte, event.time), (1, 2, seconds(3)));
        let batch = &limits.batch;
        assert_eq!((batch.fuel, batch.time, batch.bytes), (4, seconds(5), 6));
        let instance = &limits.instance;
        assert_eq!((instance.memory_bytes, instance.stack_bytes, instance.table_elements), (7, 8, 9));
        assert_eq!((event.changes, event.output_bytes, event.lookups, event.found_bytes), (10, 11, 12, 13));
        assert_eq!((limits.log_lines, limits.purity_sample), (14, 0.5));
        let component = &limits.component;
        assert_eq!((component.bytes, component.descriptor_bytes), (15, 16));
        assert_eq!((component.compile_time, component.compile_memory_bytes), (seconds(17), 18));
    }

    #[test]
    fn an_error_has_the_place_of_its_value() {
        for (line, reason) in [
            ("fuell = 1", "unknown field `fuell`, expected one of `fuel`, `fuel-per-byte`,"),
            ("lookups = -1", "invalid value: integer `-1`"),
            ("time = 'soon'", "invalid value: string \"soon\""),
            ("purity-sample = 20.0", "20 is not a share"),
            ("stack-bytes = 2_000_000", "`stack-bytes` is too large: at most 1048576"),
        ] {
            let error = parse(&format!("fuel = 1\n{line}\nchanges = 1\n")).expect_err(line);
            assert!(error.message().contains(reason), "{line}: {}", error.message());
            let place = 9..9 + line.len();
            let span = error.span().expect("a place");
            assert!(place.contains(&span.start) && span.end <= place.end, "{line}: {span:?}");
        }
    }
}
