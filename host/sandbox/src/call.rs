//! One call into a guest: the state that the host keeps for the instance, the call's fuel and time, and why
//! a call failed.
//!
//! Invariant: every call is armed with fuel and a deadline before it starts.

use std::sync::Arc;

use projector_config::{EventLimits, Limits};
use projector_core::event::Position;
use projector_core::event_failure::{Failure, printable};
use projector_core::failure::FailureKind;
use wasmtime::{Store, Trap, WasmBacktrace};

use super::bindings::projector::plugin::types;
use super::bindings::{Projection, ProjectionImports, ProjectionPre};
use super::engine::Engine;
use super::limits::{self, MemoryLimiter};
use super::log::GuestLogger;

/// The host's state for an instance.
pub(super) struct State {
    limiter: MemoryLimiter,
    /// `None`: the instance's log lines are dropped.
    log: Option<Arc<GuestLogger>>,
    pub(super) position: Option<Position>,
    /// The last log line at level error of the present call, whether it was logged or dropped.
    last_error: Option<String>,
}

/// Calls `describe`, which returns the plugin's descriptor.
pub(super) fn describe(
    engine: &Engine,
    pre: &ProjectionPre<State>,
    limits: &Limits,
) -> Result<String, Failure> {
    let log = GuestLogger::open(engine, "describe", "unknown", limits);
    let (mut store, projection) = instantiate(engine, pre, limits, Some(log))?;
    projection.call_describe(&mut store).map_err(|error| failure(&mut store, &error))
}

/// Creates an instance without memory of another one.
pub(super) fn instantiate(
    engine: &Engine,
    pre: &ProjectionPre<State>,
    limits: &Limits,
    log: Option<Arc<GuestLogger>>,
) -> Result<(Store<State>, Projection), Failure> {
    let state =
        State { limiter: MemoryLimiter::new(&limits.instance), log, position: None, last_error: None };
    let mut store = Store::new(&engine.inner, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(limits.event.output_bytes);
    arm(&mut store, &limits.event, 0);
    let projection = pre.instantiate(&mut store).map_err(|error| failure(&mut store, &error))?;
    Ok((store, projection))
}

/// Sets fuel and time limit of the next call, by the number of bytes that the call gets. Returns the fuel.
pub(super) fn arm(store: &mut Store<State>, limits: &EventLimits, bytes: usize) -> u64 {
    let fuel = limits::fuel_for(limits, bytes);
    store.data_mut().last_error = None;
    store.set_epoch_deadline(limits::ticks_for(limits, bytes));
    // Fails only for an engine without fuel.
    let armed = store.set_fuel(fuel);
    debug_assert!(armed.is_ok());
    fuel
}

/// Why a call failed, as a text for operators.
pub(super) fn failure(store: &mut Store<State>, error: &wasmtime::Error) -> Failure {
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string);
    let causes: Vec<String> =
        error.chain().map(ToString::to_string).filter(|cause| Some(cause) != backtrace.as_ref()).collect();
    let message = causes.join(": ");
    let State { limiter, last_error, .. } = store.data();
    let too_much_output = message.contains("hostcall fuel") || message.contains("too much data");
    let (kind, code, detail) = match (error.downcast_ref::<Trap>(), limiter.refused) {
        _ if too_much_output => (
            FailureKind::Limit,
            "output",
            "the plugin returned more bytes than `limits.output-bytes` allows".to_owned(),
        ),
        (Some(Trap::OutOfFuel), _) => (
            FailureKind::Limit,
            "fuel",
            "the plugin used more fuel than `limits.fuel` allows for one event".to_owned(),
        ),
        (Some(Trap::Interrupt), _) => {
            (FailureKind::Timeout, "time", "the call took longer than `limits.time` allows".to_owned())
        }
        (Some(Trap::StackOverflow), _) => (FailureKind::Limit, "stack", message),
        (Some(Trap::MemoryOutOfBounds), _) if is_stack_overflow(&message) => (
            FailureKind::Limit,
            "stack",
            format!(
                "the plugin's stack in linear memory overflowed, most likely by endless recursion or by large local values. Rust's linker gives a plugin a stack of 1 MiB (for more: `-C link-arg=-zstack-size=BYTES`); {message}"
            ),
        ),
        (_, Some(bound)) => {
            (FailureKind::Limit, bound, format!("the plugin needed more {bound} than it may have; {message}"))
        }
        (_, None) => (FailureKind::Trap, "trap", message),
    };
    // Only the guest knows why it trapped: in Rust, the message and place of a panic, which the SDK logs.
    let detail = match last_error {
        Some(line) => format!("{line}\n{detail}"),
        None => detail,
    };
    let frames = backtrace.as_deref().and_then(|backtrace| backtrace.split_once('\n'));
    // The compile worker puts a space before each name.
    let frames = frames.map(|(_, frames)| printable(&frames.replace("! ", "!")));
    Failure { backtrace: frames, ..Failure::new(kind, code, detail) }
}

/// Whether a memory fault is an overflow of the guest's stack. Rust's linker puts the stack at the
/// beginning of the memory, and it grows down: an overflow reaches below address 0, which is the end of the
/// 32-bit addresses.
fn is_stack_overflow(message: &str) -> bool {
    const REACH: u64 = 16 * 1024 * 1024;
    let Some((_, address)) = message.split_once("memory fault at wasm address 0x") else { return false };
    let digits = address.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or_default();
    // A load may start before the end and reach beyond it.
    u64::from_str_radix(digits, 16).is_ok_and(|address| address >= (1 << 32) - REACH)
}

impl types::Host for State {}

impl ProjectionImports for State {
    fn log(&mut self, level: types::Level, message: String) {
        if level == types::Level::Error {
            self.last_error = Some(printable(&message));
        }
        if let Some(log) = &self.log {
            log.write(level, self.position.as_ref(), &message);
        }
    }
}
