//! A plugin that does what no plugin should: one thing an event, as its payload says.
//!
//! `{"do": "write", "id": "1"}` on the topic `hostile.events.v1` is the one good deed; every
//! other is a [`Deed`]. `{"do": "trap", "id": "1"}`, say, brings the instance down.
//!
//! It is written on the SDK's lower floor, because the typed one forbids most of this.

mod answers;
mod instance;

use projector_sdk::Projection;
use projector_sdk::model::{Descriptor, Rejection};
use projector_sdk::record::{Answer, Found, Record};
use serde::Deserialize;

pub struct Hostile;

#[cfg(target_arch = "wasm32")]
projector_sdk::export_projection!(Hostile);

/// What an event asks for.
#[derive(Debug, Deserialize)]
pub struct Order {
    #[serde(rename = "do")]
    pub deed: Deed,
    pub id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Writes the row `id`, with the note `written`.
    Write,

    // Against the instance.
    /// `unreachable`.
    Trap,
    /// A Rust panic, whose message should be in the log.
    Panic,
    /// Never returns.
    Loop,
    /// Calls itself until the stack is full.
    Recurse,
    /// Allocates and touches memory until there is no more.
    MemoryBomb,
    /// An error to the log, one line that looks like two, then a write.
    Say,
    /// A million lines to the log, then a write.
    LogFlood,
    /// Counts events in a static, and writes the count as the note: two instances differ.
    Remember,

    // Against the answer's reader.
    /// 1,000 changes whose notes are all the same 16 MiB of the guest's memory: 16 GiB, if each
    /// is copied.
    OutputBomb,
    /// 1,000,000 changes, so small (they have no arguments) that the guest's memory, some 45 MB,
    /// is not what ends it.
    ManyChanges,
    /// Asks for another row each round.
    NeedsForever,
    /// 1,000,000 lookup calls at once, likewise.
    ManyNeeds,
    /// A lookup that is not declared.
    WrongLookup,

    // Against the declaration.
    WrongStatement,
    TooFewArguments,
    TooManyArguments,
    WrongType,
    NullKey,
    /// A statement that is declared, but not for this topic.
    ForeignStatement,
    /// Ignores the event with a code that is not declared.
    UndeclaredCode,

    // Against the store.
    NulText,
    /// Text that is not JSON, in a json column.
    BadJson,
    /// JSON with `\u0000`, which Postgres cannot hold.
    NulJson,
    Nan,
    /// More digits than the column has.
    DecimalOverflow,
    /// An instant beyond the year 9999.
    TimestampOverflow,
    /// Adds the largest int64 to the tally of `id`: the second of these overflows the sum.
    AddOverflow,
}

impl Projection for Hostile {
    fn descriptor() -> Descriptor {
        match Descriptor::from_json(include_str!("descriptor.json")) {
            Ok(descriptor) => descriptor,
            Err(problems) => panic!("{problems}"),
        }
    }

    fn project(record: &Record, found: Vec<Found>) -> Result<Answer, Rejection> {
        let order: Order = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
            .map_err(|error| Rejection::new("bad-payload", error.to_string()))?;
        if let Some(note) = instance::harm(order.deed) {
            return Ok(answers::note(&order.id, note));
        }
        answers::answer(&order, found.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use projector_sdk::model::{Contract, Tables};

    fn contract() -> Contract {
        Hostile::descriptor().check().expect("a sound descriptor")
    }

    fn answer(deed: &str) -> Result<Answer, Rejection> {
        let value = format!(r#"{{"do": "{deed}", "id": "1"}}"#).into_bytes();
        Hostile::project(&Record { value: Some(value), ..Record::default() }, Vec::new())
    }

    /// With what code the model rejects a deed's changes, the second time they are applied.
    fn verdict(deed: &str) -> String {
        let contract = contract();
        let mut tables = Tables::new(&contract);
        let Ok(Answer::Changes(changes)) = answer(deed) else { panic!("{deed} answers no changes") };
        let _ = tables.apply_event(&contract, &changes);
        tables.apply_event(&contract, &changes).map_or_else(|rejection| rejection.code, |_| "applied".into())
    }

    #[test]
    fn every_deed_is_found_out() {
        for (deed, code) in [
            ("write", "applied"),
            ("foreign-statement", "applied"),
            ("wrong-statement", "invalid-change"),
            ("too-few-arguments", "invalid-change"),
            ("too-many-arguments", "invalid-change"),
            ("many-changes", "invalid-change"),
            ("wrong-type", "invalid-value"),
            ("nul-text", "invalid-value"),
            ("bad-json", "invalid-value"),
            ("nul-json", "invalid-value"),
            ("nan", "invalid-value"),
            ("decimal-overflow", "invalid-value"),
            ("timestamp-overflow", "invalid-value"),
            ("null-key", "null-key"),
            ("add-overflow", "overflow"),
        ] {
            assert_eq!(verdict(deed), code, "{deed}");
        }
    }

    #[test]
    fn it_remembers() {
        assert_ne!(answer("remember"), answer("remember"));
    }

    #[test]
    fn an_unknown_deed_is_a_bad_payload() {
        assert_eq!(answer("behave").map_err(|rejection| rejection.code), Err("bad-payload".into()));
    }
}
