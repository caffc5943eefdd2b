//! One instance of a plugin: makes the calls for one batch.

use std::sync::Arc;

use projector_model::change::codes;
use projector_model::{Change, LookupCall, Value};
use wasmtime::{Store, Trap, WasmBacktrace};

use super::bindings::projector::plugin::types;
use super::bindings::{Projection, ProjectionImports, ProjectionPre};
use super::convert;
use super::engine::Engine;
use super::limits::{Limits, MemoryLimiter};
use super::loader::Plugin;
use super::log::GuestLogger;
use projector_core::event::{Event, Position};
use projector_core::event_failure::{Failure, printable};
use projector_core::failure::FailureKind;

/// A plugin's answer, checked against the plugin's descriptor.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Changes(Vec<Change>),
    Ignored { code: String, detail: String },
    Needs(Vec<LookupCall>),
}

impl Answer {
    /// The answer's size in memory.
    pub fn size_bytes(&self) -> usize {
        match self {
            Answer::Changes(changes) => changes.iter().map(Change::size_bytes).sum(),
            Answer::Ignored { code, detail } => code.len() + detail.len(),
            Answer::Needs(calls) => calls.iter().map(LookupCall::size_bytes).sum(),
        }
    }
}

/// The rows that a lookup found, for the plugin.
pub type Found = (LookupCall, Vec<Vec<Value>>);

/// A running instance. After a trap or an exceeded limit, it cannot be used any more:
/// [`Instance::is_spent`].
pub struct Instance {
    plugin: Plugin,
    store: Store<State>,
    projection: Projection,
    spent: bool,
    /// The fuel that the last call got.
    fuel: u64,
}

/// The host's state for an instance.
pub(super) struct State {
    growth: MemoryLimiter,
    /// `None`: the instance's log lines are dropped.
    log: Option<Arc<GuestLogger>>,
    position: Option<Position>,
    /// The last log line at level error of the present call, whether it was logged or dropped.
    last_error: Option<String>,
}

impl Instance {
    /// Creates a fresh instance, without memory of another batch.
    pub fn new(plugin: &Plugin) -> Result<Self, Failure> {
        Self::logging(plugin, Some(plugin.log.clone()))
    }

    /// Creates an instance for repeated calls. It logs nothing.
    pub fn silent(plugin: &Plugin) -> Result<Self, Failure> {
        Self::logging(plugin, None)
    }

    fn logging(plugin: &Plugin, log: Option<Arc<GuestLogger>>) -> Result<Self, Failure> {
        let (store, projection) = instantiate(&plugin.engine, &plugin.pre, &plugin.limits, log)?;
        Ok(Self { plugin: plugin.clone(), store, projection, spent: false, fuel: plugin.limits.fuel })
    }

    /// Whether a call failed, so that the instance must be replaced.
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    /// The fuel that the last call used.
    pub fn fuel_used(&self) -> u64 {
        let left = self.store.get_fuel().unwrap_or_default();
        self.fuel.saturating_sub(left)
    }

    /// Projects one event with the rows that were found for it so far.
    ///
    /// The codes and lookups of the answer are declared ones. Its changes are checked by `validate`.
    pub fn project(&mut self, event: &Event, found: &[Found]) -> Result<Answer, Failure> {
        self.fuel = arm(&mut self.store, &self.plugin.limits, given_bytes(event, found));
        self.store.data_mut().position = Some(event.position.clone());
        let headers = convert::headers(event);
        let event = convert::event(event, &headers);
        let called =
            convert::with_found(found, |found| self.projection.call_project(&mut self.store, event, found));
        let outcome = match called {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(rejection)) => return Err(self.rejection(rejection)),
            Err(error) => {
                self.spent = true;
                return Err(failure(&mut self.store, &error));
            }
        };
        self.answer(outcome)
    }

    fn answer(&self, outcome: types::Outcome) -> Result<Answer, Failure> {
        let limits = &self.plugin.limits;
        match outcome {
            types::Outcome::Changes(changes) if changes.len() > limits.changes => Err(Failure::new(
                FailureKind::Limit,
                "changes",
                format!("the plugin returned {} changes, and {} are the most", changes.len(), limits.changes),
            )),
            types::Outcome::Changes(changes) => changes
                .into_iter()
                .map(|change| convert::change(change, &self.plugin.contract))
                .collect::<Result<_, _>>()
                .map(Answer::Changes)
                .map_err(|problem| Failure::new(FailureKind::Invalid, codes::INVALID_VALUE, problem)),
            types::Outcome::Ignored(types::Ignored { code, detail }) => {
                let declared = &self.plugin.contract.descriptor.ignores;
                if !declared.iter().any(|declared| declared.code == code) {
                    return Err(undeclared("ignore", &code));
                }
                Ok(Answer::Ignored { code, detail: printable(&detail) })
            }
            types::Outcome::Needs(calls) if calls.len() > limits.lookups => Err(Failure::new(
                FailureKind::Limit,
                "lookups",
                format!("the plugin asked for {} lookups, and {} are the most", calls.len(), limits.lookups),
            )),
            types::Outcome::Needs(calls) => calls
                .into_iter()
                .map(|call| convert::lookup_call(call, &self.plugin.contract))
                .collect::<Result<_, _>>()
                .map(Answer::Needs)
                .map_err(|problem| Failure::new(FailureKind::Invalid, codes::INVALID_VALUE, problem)),
        }
    }

    fn rejection(&self, rejection: types::Rejection) -> Failure {
        let declared = &self.plugin.contract.descriptor.rejects;
        let known =
            rejection.code == codes::BAD_PAYLOAD || declared.iter().any(|code| code.code == rejection.code);
        match known {
            true => Failure::new(FailureKind::Rejected, &rejection.code, rejection.detail),
            false => undeclared("rejection", &rejection.code),
        }
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
}

fn instantiate(
    engine: &Engine,
    pre: &ProjectionPre<State>,
    limits: &Limits,
    log: Option<Arc<GuestLogger>>,
) -> Result<(Store<State>, Projection), Failure> {
    let state = State { growth: MemoryLimiter::new(limits), log, position: None, last_error: None };
    let mut store = Store::new(&engine.inner, state);
    store.limiter(|state| &mut state.growth);
    store.set_hostcall_fuel(limits.output_bytes);
    arm(&mut store, limits, 0);
    let projection = pre.instantiate(&mut store).map_err(|error| failure(&mut store, &error))?;
    Ok((store, projection))
}

/// Sets fuel and time limit of the next call, by the number of bytes that the call gets. Returns the fuel.
fn arm(store: &mut Store<State>, limits: &Limits, bytes: usize) -> u64 {
    let fuel = limits.fuel_for(bytes);
    store.data_mut().last_error = None;
    store.set_epoch_deadline(limits.ticks_for(bytes));
    // Fails only for an engine without fuel.
    let armed = store.set_fuel(fuel);
    debug_assert!(armed.is_ok());
    fuel
}

/// The number of bytes that a call gets to read.
fn given_bytes(event: &Event, found: &[Found]) -> usize {
    let of_value = |value: &Value| match value {
        Value::Text(text) | Value::Json(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    let of_rows = |(_, rows): &Found| rows.iter().flatten().map(of_value).sum::<usize>();
    event.size_bytes() + found.iter().map(of_rows).sum::<usize>()
}

fn failure(store: &mut Store<State>, error: &wasmtime::Error) -> Failure {
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string);
    let words: Vec<String> =
        error.chain().map(ToString::to_string).filter(|words| Some(words) != backtrace.as_ref()).collect();
    let words = words.join(": ");
    let State { growth, last_error, .. } = store.data();
    let too_much_output = words.contains("hostcall fuel") || words.contains("too much data");
    let (kind, code, detail) = match (error.downcast_ref::<Trap>(), growth.refused) {
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
        (Some(Trap::StackOverflow), _) => (FailureKind::Limit, "stack", words),
        (Some(Trap::MemoryOutOfBounds), _) if is_below_the_stack(&words) => (
            FailureKind::Limit,
            "stack",
            format!(
                "the plugin's stack in linear memory overflowed, most likely by endless recursion or by large local values. Rust's linker gives a plugin a stack of 1 MiB (for more: `-C link-arg=-zstack-size=BYTES`); {words}"
            ),
        ),
        (_, Some(bound)) => {
            (FailureKind::Limit, bound, format!("the plugin needed more {bound} than it may have; {words}"))
        }
        (_, None) => (FailureKind::Trap, "trap", words),
    };
    // Only the guest knows why it trapped: in Rust, the message and place of a panic, which the SDK logs.
    let detail = match last_error {
        Some(said) => format!("{said}\n{detail}"),
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
fn is_below_the_stack(words: &str) -> bool {
    const REACH: u64 = 16 * 1024 * 1024;
    let Some((_, address)) = words.split_once("memory fault at wasm address 0x") else { return false };
    let digits = address.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or_default();
    // A load may start before the end and reach beyond it.
    u64::from_str_radix(digits, 16).is_ok_and(|address| address >= (1 << 32) - REACH)
}

fn undeclared(kind: &str, code: &str) -> Failure {
    let code = printable(code);
    Failure::new(
        FailureKind::Invalid,
        codes::INVALID_CHANGE,
        format!("the plugin returned the {kind} code {code:?}, which its descriptor does not declare"),
    )
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
