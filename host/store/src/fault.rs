//! The faults of a database: an [`Outage`] may pass by itself; a [`Setup`] fault lasts until a person corrects it.
//!
//! Texts name the object that is concerned, and never a line of Postgres' own source.

use std::fmt;

use projector_core::failure::FailureKind;
use sqlx::postgres::PgDatabaseError;

/// A fault that may be over at the next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    pub kind: FailureKind,
    pub message: String,
}

impl Outage {
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Database, message: message.into() }
    }
}

impl From<sqlx::Error> for Outage {
    fn from(error: sqlx::Error) -> Self {
        Self::new(to_text(&error))
    }
}

impl Outage {
    /// Whether the database works, and only its sessions wait for each other.
    pub fn is_contention(&self) -> bool {
        matches!(self.kind, FailureKind::Locked | FailureKind::Deadlock)
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A fault that lasts until a person changes the configuration, the database, or a right in it. The host then continues
/// without a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// What is wrong, with the name of the object.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl Setup {
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

/// An error's text for an operator.
pub(crate) fn to_text(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(postgres) => {
                let detail = postgres.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
                format!("{}{detail} [SQLSTATE {}]", postgres.message(), postgres.code())
            }
            None => error.to_string(),
        },
        sqlx::Error::Io(error) => io_to_text(error),
        sqlx::Error::Protocol(message) => message.clone(),
        error => error.to_string(),
    }
}

/// Without the error number of the operating system.
pub(crate) fn io_to_text(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".into(),
        ErrorKind::ConnectionReset => "connection reset".into(),
        ErrorKind::ConnectionAborted => "connection aborted".into(),
        ErrorKind::BrokenPipe => "connection closed".into(),
        ErrorKind::UnexpectedEof => "the connection was closed".into(),
        ErrorKind::TimedOut => "timed out".into(),
        ErrorKind::HostUnreachable => "host unreachable".into(),
        ErrorKind::NetworkUnreachable => "network unreachable".into(),
        _ => error.to_string(),
    }
}
