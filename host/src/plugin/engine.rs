//! One wasmtime engine for all plugins of a host, and the clock that interrupts them.

use std::time::Duration;

use wasmtime::{Config, WasmBacktraceDetails};

/// How often the epoch moves on: the granularity of wall time limits.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// The engine. Cheap to clone; the clock stops with the last clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) inner: wasmtime::Engine,
}

impl Engine {
    /// Makes the engine and starts its clock, a thread.
    pub fn new() -> wasmtime::Result<Self> {
        let inner = wasmtime::Engine::new(&config())?;
        let weak = inner.weak();
        std::thread::Builder::new().name("wasm-epoch".into()).spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })?;
        Ok(Self { inner })
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
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(20))
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Halves the overhead of a call: nothing here is async.
        .concurrency_support(false)
        // Deep recursion ends in a trap well before the thread's own stack does.
        .max_wasm_stack(512 * 1024);
    config
}
