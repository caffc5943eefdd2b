//! What a database error means: one match over SQLSTATE.

use sqlx::postgres::PgDatabaseError;

use crate::outcome::Refusal;
use crate::store::StoreError;

/// Classes as in Postgres' own table of error codes (appendix A of its manual).
pub(super) fn classify(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
    match code.as_deref() {
        // 22: a value out of its range or form; 23: a constraint; 54: a value too large or too deep, as
        // for an index; P0001: a trigger that somebody made.
        Some(code) if ["22", "23", "54", "P0001"].iter().any(|class| code.starts_with(class)) => {
            StoreError::Data(refusal(&error))
        }
        // No such table, column, schema or function; another type (0A000: of a prepared read); a
        // missing right.
        Some("0A000" | "42P01" | "42703" | "3F000" | "42883" | "42804" | "42P10" | "42501") => {
            StoreError::Drift(error)
        }
        // 08, 25, 40, 53, 55, 57, 58, XX: connection, read-only, deadlock, resources, locks, shutdown,
        // system. And what has no code has not reached the server, or was not answered.
        _ => StoreError::Unavailable(error),
    }
}

fn refusal(error: &sqlx::Error) -> Refusal {
    let told = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    let owned = |name: Option<&str>| name.map(str::to_owned);
    Refusal {
        message: error.to_string(),
        table: told.and_then(|told| owned(told.table())),
        column: told.and_then(|told| owned(told.column())),
        constraint: told.and_then(|told| owned(told.constraint())),
    }
}
