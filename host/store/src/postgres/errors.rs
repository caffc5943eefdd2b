//! What a Postgres error means: one table over SQLSTATE (appendix A of Postgres' manual).
//!
//! An error is caused by the event's values, or may pass by itself, or lasts until a person corrects the cause. The last two
//! must never be confused: an operator who reads that the host recovers by itself does nothing.

use projector_core::event_failure::DatabaseRefusal;
use projector_core::failure::FailureKind;
use sqlx::postgres::PgDatabaseError;

use crate::error::StoreError;
use crate::fault::{Outage, Setup, to_text};

/// What a SQLSTATE means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// A value of the event is refused.
    Data,
    /// A table, column, index or function is not as the host made it.
    Drift,
    /// It may pass by itself.
    Passes,
    /// Another session holds a lock.
    Locked,
    /// Two transactions waited for each other, and the database ended this one.
    Deadlock,
    /// The statement ran longer than the statement timeout.
    Slow,
    /// It lasts until a person does what this text says.
    Lasts(&'static str),
    /// The role lacks a right.
    Right,
}

/// Codes and classes. The first that matches counts. A class is the first two characters of a code.
const TABLE: &[(&str, Meaning)] = &[
    // The event's values.
    ("22", Meaning::Data),
    ("23", Meaning::Data),
    ("44", Meaning::Data),
    // 54: a value too large or too deep, as for an index.
    ("54", Meaning::Data),
    // An exception of a trigger that a person made.
    ("P0", Meaning::Data),
    // The login.
    ("28", Meaning::Lasts("correct the role and the password in the store's settings, or pg_hba.conf")),
    ("3D000", Meaning::Lasts("create the database, or correct the store's url")),
    ("42501", Meaning::Right),
    ("0L", Meaning::Right),
    ("0P", Meaning::Right),
    // A prepared statement is unknown or known already: a pooler assigned another server connection.
    ("26000", Meaning::Lasts(POOLER)),
    ("42P05", Meaning::Lasts(POOLER)),
    // A name that the host needs is in use.
    ("42P06", Meaning::Lasts("drop or rename what has this name, if no projection needs it")),
    ("42P07", Meaning::Lasts("drop or rename what has this name, if no projection needs it")),
    ("42710", Meaning::Lasts("drop or rename what has this name, if no projection needs it")),
    ("2BP01", Meaning::Lasts("drop what depends on it")),
    // Tables, columns, types and functions. 0A000: the row type of a prepared query has changed.
    ("0A000", Meaning::Drift),
    ("3F000", Meaning::Drift),
    ("42", Meaning::Drift),
    // Faults that may pass. `hint` has a remedy for some of them.
    ("55P03", Meaning::Locked),
    ("40P01", Meaning::Deadlock),
    ("57014", Meaning::Slow),
    ("08", Meaning::Passes),
    ("25", Meaning::Passes),
    ("40", Meaning::Passes),
    ("53", Meaning::Passes),
    ("55", Meaning::Passes),
    ("57", Meaning::Passes),
    ("58", Meaning::Passes),
    ("HV", Meaning::Passes),
    // The server's own files.
    ("F0", Meaning::Lasts("correct the server's configuration file")),
    ("XX001", Meaning::Lasts("the server's data is corrupted: restore it from a backup")),
    ("XX002", Meaning::Lasts("an index is corrupted: `reindex` it")),
    ("XX", Meaning::Passes),
];

pub(super) const POOLER: &str = "a pooler assigns another server connection to each transaction: use its session mode, or connect to Postgres directly";

pub(super) fn classify(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
    // Without a code, the statement did not reach the server, or its answer did not reach the host.
    let Some(code) = code else { return StoreError::Unavailable(error.into()) };
    match meaning(&code) {
        Meaning::Data => StoreError::Data(refusal(&error)),
        Meaning::Drift => StoreError::Drift(to_text(&error)),
        Meaning::Locked => {
            StoreError::Unavailable(Outage { kind: FailureKind::Locked, message: to_text(&error) })
        }
        Meaning::Deadlock => {
            StoreError::Unavailable(Outage { kind: FailureKind::Deadlock, message: to_text(&error) })
        }
        Meaning::Slow => StoreError::Unavailable(Outage {
            kind: FailureKind::Slow,
            message: format!(
                "{}; the statement ran longer than the store's `statement-timeout`",
                to_text(&error)
            ),
        }),
        Meaning::Passes => {
            let remedy = hint(&code).map(|remedy| format!("; {remedy}")).unwrap_or_default();
            StoreError::Unavailable(Outage::new(format!("{}{remedy}", to_text(&error))))
        }
        Meaning::Lasts(remedy) => StoreError::Setup(Setup::new(to_text(&error), remedy)),
        Meaning::Right => StoreError::Setup(missing_right(&error)),
    }
}

fn meaning(code: &str) -> Meaning {
    let found = TABLE.iter().find(|(known, _)| code.starts_with(known));
    // An unknown code, of a later version, is retried: no event is blamed for it.
    found.map_or(Meaning::Passes, |(_, meaning)| *meaning)
}

/// What an operator can do about a fault that may pass.
fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "53100" => "free disk space on the server",
        "53200" => "give the server memory",
        "53300" => "raise max_connections, or lower `connections` of the hosts",
        "57P01" | "57P02" | "57P03" => "the server is stopping or starting",
        "25006" => "the server is a standby, or default_transaction_read_only is on",
        _ => return None,
    })
}

/// "permission denied for table orders", "must be owner of index …".
fn missing_right(error: &sqlx::Error) -> Setup {
    let message = error.as_database_error().map(|error| error.message().to_owned()).unwrap_or_default();
    let remedy = match message.strip_prefix("permission denied for ").and_then(|rest| rest.split_once(' ')) {
        Some(("database", name)) => format!("grant create on database {name} to it"),
        Some(("schema", name)) => format!("grant usage, create on schema {name} to it"),
        Some(("table" | "view" | "relation", name)) => {
            format!("grant select, insert, update, delete on table {name} to it, or make it the owner")
        }
        Some((kind, name)) => format!("grant it the right on {kind} {name}"),
        None => "make it the owner, or grant it membership of the owner".into(),
    };
    Setup::new(
        format!("the role of the store's url lacks a right: {}", to_text(error)),
        format!("as the object's owner, {remedy}"),
    )
}

fn refusal(error: &sqlx::Error) -> DatabaseRefusal {
    let error_fields =
        error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    let owned = |name: Option<&str>| name.map(str::to_owned);
    DatabaseRefusal {
        message: error_fields.map_or_else(|| to_text(error), |fields| fields.message().to_owned()),
        table: error_fields.and_then(|fields| owned(fields.table())),
        column: error_fields.and_then(|fields| owned(fields.column())),
        constraint: error_fields.and_then(|fields| owned(fields.constraint())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_fault_is_never_taken_for_one_that_may_pass() {
        for lasting in ["28P01", "28000", "3D000", "26000", "42P05", "XX001"] {
            assert!(matches!(meaning(lasting), Meaning::Lasts(_)), "{lasting}");
        }
        assert_eq!(meaning("42501"), Meaning::Right);
        assert_eq!(meaning("55P03"), Meaning::Locked);
        assert_eq!(meaning("40P01"), Meaning::Deadlock);
        assert_eq!(meaning("57014"), Meaning::Slow);
        for passing in ["53100", "53300", "57P01", "25006", "40001", "08006", "58030", "XX000"] {
            assert_eq!(meaning(passing), Meaning::Passes, "{passing}");
        }
        for data in ["22021", "22P05", "23505", "54000", "P0001"] {
            assert_eq!(meaning(data), Meaning::Data, "{data}");
        }
        for drift in ["42P01", "42703", "3F000", "0A000"] {
            assert_eq!(meaning(drift), Meaning::Drift, "{drift}");
        }
    }
}
