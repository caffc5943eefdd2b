//! The wasmtime engine, and two clocks: one interrupts calls that run too long, the other one ends the
//! seconds of plugins' logs.
//!
//! The size of the stack is a setting of the engine, so plugins with the same limit share an engine.
//!
//! Invariant: the same event gives the same bytes on every machine.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use wasmtime::{Config, WasmBacktraceDetails};

use projector_config::MOST_STACK_BYTES;

/// How often the epoch advances: the granularity of limits of wall time.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// How often the logs are checked for a second that is over.
const LOG_TICK: Duration = Duration::from_millis(200);

/// The engine. Cheap to clone. The clocks stop with the last clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) inner: wasmtime::Engine,
    logs: Logs,
}

/// Entries of dropped plugins are removed with the next tick.
type Logs = Arc<Mutex<Vec<Weak<dyn Seconds>>>>;

/// A counter whose seconds the engine's clock ends.
pub(super) trait Seconds: Send + Sync {
    /// Called several times per second.
    fn tick(&self, now: Instant);
}

impl Engine {
    /// Creates an engine whose guests may use this many bytes of stack, and starts its clocks, which are
    /// two threads.
    pub fn new(stack_bytes: usize) -> wasmtime::Result<Self> {
        let mut config = config();
        // Deep recursion traps well before the end of the thread's own stack of 2 MiB.
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
        // A thread of its own: writing the host's log may block, and this must not affect plugins' time
        // limits.
        std::thread::Builder::new().name("plugin-logs".into()).spawn(move || {
            while let Some(logs) = watched.upgrade() {
                let now = Instant::now();
                let lives = |log: &Weak<dyn Seconds>| log.upgrade().map(|log| log.tick(now)).is_some();
                logs.lock().unwrap_or_else(PoisonError::into_inner).retain(lives);
                drop(logs);
                std::thread::sleep(LOG_TICK);
            }
        })?;
        Ok(Self { inner, logs })
    }

    /// Makes the clock end a log's seconds, as long as the log exists.
    pub(super) fn watch(&self, log: Weak<dyn Seconds>) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).push(log);
    }
}

/// The settings for compiling and running components. Worker and host must use the same settings, or the
/// host would refuse the worker's artifact.
pub(super) fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .consume_fuel(true)
        .epoch_interruption(true)
        // So that the same event gives the same bytes on every machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        // Compilers of guests do not use it.
        .wasm_multi_memory(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(20))
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Halves the overhead of a call. Nothing here is async.
        .concurrency_support(false);
    config
}
