//! What an event tells the plugin to do.

use serde::Deserialize;

/// The payload of an event.
#[derive(Debug, Deserialize)]
pub(crate) struct Instruction {
    #[serde(rename = "do")]
    pub(crate) behaviour: Behaviour,
    pub(crate) id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Behaviour {
    /// Writes the row `id`, with the note `written`. Harmless.
    Write,

    // Against the instance.
    /// Executes `unreachable`.
    Trap,
    /// Panics. The message should be in the log.
    Panic,
    /// Never returns.
    Loop,
    /// Recurses until the stack overflows.
    Recurse,
    /// Allocates and writes memory until an allocation fails.
    MemoryBomb,
    /// Logs an error with a line break, so that it looks like two lines, then writes.
    Say,
    /// Logs a million lines, then writes.
    LogFlood,
    /// Counts events in a static variable, and writes the count as the note. So two instances answer differently.
    Remember,

    // Against the host, which reads the answer.
    /// Answers 1,000 changes whose notes are all the same 16 MiB of the guest's memory. Copied one by one they would be
    /// 16 GiB.
    OutputBomb,
    /// Answers 1,000,000 changes without arguments. They take about 45 MB, so the guest's memory limit does not stop them.
    ManyChanges,
    /// Asks for another row in each round.
    NeedsForever,
    /// Answers 1,000,000 lookup calls without arguments.
    ManyNeeds,
    /// Calls a lookup that is not declared.
    WrongLookup,

    // Against the declaration.
    WrongStatement,
    TooFewArguments,
    TooManyArguments,
    WrongType,
    NullKey,
    /// Calls a statement that is declared, but not for this topic.
    ForeignStatement,
    /// Ignores the event with a code that is not declared.
    UndeclaredCode,

    // Against the store.
    NulText,
    /// Writes text that is not JSON to a json column.
    BadJson,
    /// Writes JSON with `\u0000`, which Postgres cannot store.
    NulJson,
    Nan,
    /// Writes a decimal with more digits than the column has.
    DecimalOverflow,
    /// Writes a timestamp after the year 9999.
    TimestampOverflow,
    /// Adds the largest int64 to the tally of `id`. The second time, the sum overflows.
    AddOverflow,
}
