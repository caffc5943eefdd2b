//! Log lines for the operator. Logging is the only effect that a projection has beside its answers.
//!
//! The host prints each line with the projection's name, its version and the event's position. The platform limits the
//! lines of a projection per second (`limits.log-lines`): the host drops further lines, and counts them.
//!
//! A panic is logged automatically, at level `error`, with its message and place. If a projection traps, the dead letter
//! of the event contains the last line at level `error`, even if the host dropped that line.

/// The severity of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Logs a line at level `debug`.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref());
}

/// Logs a line at level `info`.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

/// Logs a line at level `warn`.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}

/// Logs a line at level `error`.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref());
}

#[cfg(target_arch = "wasm32")]
fn write(level: Level, message: &str) {
    use crate::bindings::projector::plugin::types::Level as WitLevel;
    let level = match level {
        Level::Debug => WitLevel::Debug,
        Level::Info => WitLevel::Info,
        Level::Warn => WitLevel::Warn,
        Level::Error => WitLevel::Error,
    };
    crate::bindings::log(level, message);
}

#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, message: &str) {
    LINES.with_borrow_mut(|lines| lines.push((level, message.to_owned())));
}

#[cfg(not(target_arch = "wasm32"))]
thread_local! {
    static LINES: std::cell::RefCell<Vec<(Level, String)>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Takes the lines that this thread has logged since the last call. The test harness reads them.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn take() -> Vec<(Level, String)> {
    LINES.take()
}
