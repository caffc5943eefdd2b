//! What a SQLite error means: one match over its result code.

use projector_core::event_failure::DatabaseRefusal;

use crate::error::StoreError;
use crate::fault::Setup;

/// Primary result codes as in SQLite's own list.
pub(super) fn classify(error: sqlx::Error) -> StoreError {
    const ERROR: i32 = 1;
    const CORRUPT: i32 = 11;
    const TOO_BIG: i32 = 18;
    const CONSTRAINT: i32 = 19;
    const MISMATCH: i32 = 20;
    const NOT_A_DATABASE: i32 = 26;
    let code =
        error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<i32>().ok());
    match code.map(|extended| extended & 0xff) {
        Some(CONSTRAINT | MISMATCH | TOO_BIG) => {
            StoreError::Data(DatabaseRefusal { message: error.to_string(), ..DatabaseRefusal::default() })
        }
        // No such table or column.
        Some(ERROR) => StoreError::drift(error),
        Some(CORRUPT | NOT_A_DATABASE) => StoreError::Setup(Setup::new(
            format!("the SQLite file: {error}"),
            "restore it from a backup, or name another file in the store's url",
        )),
        // Busy, locked, full, read-only, an I/O error.
        _ => StoreError::Unavailable(error.into()),
    }
}
