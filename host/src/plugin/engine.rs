//! A wasmtime engine for all plugins that may have the same stack, the clock that interrupts them, and the
//! one that ends the seconds of their logs.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use wasmtime::{Config, WasmBacktraceDetails};

use super::log::GuestLogger;

/// How often the epoch moves on: the granularity of wall time limits.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// How often it is looked whether a second of a log is over.
const LOG_TICK: Duration = Duration::from_millis(200);

/// What no guest may exceed: the host's own calls on its behalf need the rest of the thread's stack.
pub const MOST_STACK_BYTES: usize = 1024 * 1024;

/// The engine. Cheap to clone; the clock stops with the last clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) inner: wasmtime::Engine,
    logs: Logs,
}

/// Those of plugins that are no more are dropped with the next tick.
type Logs = Arc<Mutex<Vec<Weak<GuestLogger>>>>;

impl Engine {
    /// Makes an engine whose guests may fill so many bytes of stack, and starts its clocks, two threads.
    pub fn new(stack_bytes: usize) -> wasmtime::Result<Self> {
        let mut config = config();
        // Deep recursion ends in a trap well before the thread's own stack does, of 2 MiB.
        config.max_wasm_stack(stack_bytes.min(MOST_STACK_BYTES));
        let inner = wasmtime::Engine::new(&config)?;
        let weak = inner.weak();
        std::thread::Builder::new().name("wasm-epoch".into()).spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })?;
        let logs = Logs::default();
        let watched = Arc::downgrade(&logs);
        // Not by the same thread: whoever reads this host's log may be slow, and no plugin's time is to
        // depend on that.
        std::thread::Builder::new().name("plugin-logs".into()).spawn(move || {
            while let Some(logs) = watched.upgrade() {
                let now = Instant::now();
                let lives = |log: &Weak<GuestLogger>| log.upgrade().map(|log| log.tick(now)).is_some();
                logs.lock().unwrap_or_else(PoisonError::into_inner).retain(lives);
                drop(logs);
                std::thread::sleep(LOG_TICK);
            }
        })?;
        Ok(Self { inner, logs })
    }

    /// Has the clock end a log's seconds, for as long as it lives.
    pub(super) fn watch(&self, log: &Arc<GuestLogger>) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(log));
    }
}

/// The settings with which components are compiled and run; both processes share them, or the
/// artifact of one would be refused by the other.
pub(super) fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .consume_fuel(true)
        .epoch_interruption(true)
        // The same event gives the same bytes on every machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        // No compiler of a guest makes a module with several.
        .wasm_multi_memory(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(20))
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Halves the overhead of a call: nothing here is async.
        .concurrency_support(false);
    config
}
