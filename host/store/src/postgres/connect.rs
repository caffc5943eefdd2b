//! One session with the database: connected, set, and looked at.
//!
//! Invariants: a session that is handed out has the host's time limits in force, read back from the server
//! itself; its database is in UTF-8; and of several servers one that takes writes is preferred.
//!
//! Nothing but what every pooler takes is sent at the start of a session. What the host relies on is set by
//! statement afterwards, and read back.

use std::sync::Arc;
use std::time::Duration;

use projector_config as config;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};

use super::address::{Address, Member, Tls};
use super::doorway;
use super::errors::{POOLER, classify};
use super::line::{Line, Lines};
use super::tls::{self, Refused};
use crate::fault::{io_in_words, to_text};
use crate::{Outage, Setup, StoreError};

/// How long one server may take to let the host in.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Connected {
    pub(super) connection: PgConnection,
    pub(super) line: Arc<Line>,
    /// Of the server: `host:port`.
    pub(super) server: String,
    pub(super) database: String,
    pub(super) role: String,
    pub(super) encrypted: bool,
    /// What is sent without encryption could be read on a network.
    pub(super) exposed: bool,
    /// The url names several servers, so this one may cease to take writes.
    pub(super) one_of_several: bool,
}

/// Connects to the first server that takes writes, with the passwords and certificates as they are now.
pub(super) async fn connect(settings: &config::Store, lines: &Arc<Lines>) -> Result<Connected, StoreError> {
    let address = Address::of(settings).map_err(StoreError::Setup)?;
    let several = address.members.len() > 1;
    let (mut errors, mut read_only) = (Vec::new(), None);
    for member in &address.members {
        let attempt = tokio::time::timeout(PATIENCE, open(member, settings, (lines, several))).await;
        match attempt.unwrap_or_else(|_| Err(no_answer(member))) {
            Ok((connected, true)) => return Ok(connected),
            Ok((connected, false)) if !several && !address.writable_only => return Ok(connected),
            Ok((connected, false)) => {
                let message = format!("{}: the server takes no writes", member.name);
                errors.push(StoreError::Unavailable(Outage::new(message)));
                read_only.get_or_insert(connected);
            }
            Err(error) => errors.push(error),
        }
    }
    match read_only {
        // It can be looked at.
        Some(connected) if !address.writable_only => Ok(connected),
        _ => Err(together(errors)),
    }
}

fn no_answer(member: &Member) -> StoreError {
    StoreError::Unavailable(Outage::new(format!("{}: no answer within {PATIENCE:?}", member.name)))
}

/// Of several servers: what is wrong with each. It passes if it does so anywhere.
fn together(mut errors: Vec<StoreError>) -> StoreError {
    if errors.len() == 1
        && let Some(only) = errors.pop()
    {
        return only;
    }
    let said = |error: &StoreError| match error {
        StoreError::Setup(setup) => setup.to_string(),
        StoreError::Unavailable(outage) => outage.message.clone(),
        error => error.to_string(),
    };
    let all = errors.iter().map(said).collect::<Vec<_>>().join("; ");
    match errors.iter().all(|error| matches!(error, StoreError::Setup(_))) {
        true => StoreError::Setup(Setup::new(all, "correct each")),
        false => StoreError::Unavailable(Outage::new(all)),
    }
}

/// A session with one server, and whether that takes writes.
async fn open(
    member: &Member,
    settings: &config::Store,
    (lines, one_of_several): (&Arc<Lines>, bool),
) -> Result<(Connected, bool), StoreError> {
    for (parameter, file) in [("sslcert", &member.certificate), ("sslkey", &member.key)] {
        if let Some(file) = file
            && let Err(error) = tokio::fs::metadata(file).await
        {
            return Err(StoreError::Setup(Setup::new(
                format!("{parameter}={} of the store's url: {error}", file.display()),
                "name a file that the host can read",
            )));
        }
    }
    let by = |mode| member.options.clone().ssl_mode(mode);
    let failed = |error| refused(member, error);
    let line = lines.open(&member.name);
    let plainly = async |options: PgConnectOptions| {
        let doorway = doorway::lead_to(member, line.clone()).await?;
        options.socket(&doorway.directory).connect().await
    };
    let (mut connection, encrypted) = match &member.tls {
        Tls::Socket | Tls::Never => (plainly(by(PgSslMode::Disable)).await.map_err(failed)?, false),
        Tls::Required => (plainly(member.options.clone()).await.map_err(failed)?, true),
        Tls::Prefer => match plainly(by(PgSslMode::Require)).await {
            Err(error) if has_no_tls(&error) => {
                (plainly(by(PgSslMode::Disable)).await.map_err(failed)?, false)
            }
            connected => (connected.map_err(failed)?, true),
        },
        Tls::Pinned { authorities, any_name } => {
            let led = tls::lead_to(member, (authorities, *any_name), line.clone()).await;
            let doorway = led.map_err(|error| match error {
                Refused::Setup(setup) => StoreError::Setup(setup),
                Refused::Io(error) => refused(member, sqlx::Error::Io(error)),
            })?;
            let through = by(PgSslMode::Disable).socket(&doorway.directory);
            (through.connect().await.map_err(failed)?, true)
        }
    };
    let (takes_writes, session) = prepare(&mut connection, member, settings).await?;
    line.is_session(session);
    let connected = Connected {
        connection,
        line,
        server: member.name.clone(),
        database: member.database().to_owned(),
        role: member.role().to_owned(),
        encrypted,
        exposed: !encrypted && !member.is_on_this_machine(),
        one_of_several,
    };
    Ok((connected, takes_writes))
}

fn has_no_tls(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Tls(source) if source.to_string() == "server does not support TLS")
}

/// Sets what the host relies on, and reads it back. Returns whether the server takes writes, and its number
/// of the session.
async fn prepare(
    connection: &mut PgConnection,
    member: &Member,
    settings: &config::Store,
) -> Result<(bool, i32), StoreError> {
    let wanted = wanted(settings);
    let list: Vec<String> = wanted.iter().map(|(name, value)| format!("('{name}', '{value}')")).collect();
    let set = format!(
        "select name, set_config(name, value, false) from (values {}) as s(name, value)",
        list.join(", ")
    );
    // Simple queries: a pooler that loses sessions would lose prepared statements before it is found out.
    let set = sqlx::raw_sql(AssertSqlSafe(set)).fetch_all(&mut *connection).await.map_err(classify)?;
    let mut asked: Vec<(String, String)> = set.iter().map(|row| (row.get(0), row.get(1))).collect();
    asked.push(("client_encoding".into(), "UTF8".into()));
    // Of a socket, and of what stands between, these say nothing.
    asked.retain(|(name, _)| !name.starts_with("tcp_"));
    let names: Vec<String> = asked.iter().map(|(name, _)| format!("('{name}')")).collect();
    let read = format!("select name, current_setting(name) from (values {}) as s(name)", names.join(", "));
    let read = sqlx::raw_sql(AssertSqlSafe(read)).fetch_all(&mut *connection).await.map_err(classify)?;
    let in_force: Vec<(String, String)> = read.iter().map(|row| (row.get(0), row.get(1))).collect();
    for (name, value) in &asked {
        let found = in_force.iter().find(|(known, _)| known == name).map(|(_, found)| found.as_str());
        if found != Some(value) {
            let found = found.unwrap_or("nothing");
            return Err(StoreError::Setup(Setup::new(
                format!("{}: the session's {name} is {found} after it was set to {value}", member.name),
                POOLER,
            )));
        }
    }
    let row = sqlx::raw_sql(
        "select current_setting('server_encoding'),
           (not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off')::text,
           pg_backend_pid()::text",
    )
    .fetch_one(connection)
    .await
    .map_err(classify)?;
    let (encoding, writable, session): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    if encoding != "UTF8" {
        return Err(StoreError::Setup(Setup::new(
            format!("{}: the database {} is encoded in {encoding}", member.name, member.database()),
            "events are UTF-8: make a database for it with `create database … encoding 'UTF8' template template0`",
        )));
    }
    let unknown = || StoreError::Unusable(format!("{}: the session's number is {session:?}", member.name));
    Ok((writable == "true", session.parse().map_err(|_| unknown())?))
}

/// What each session of the host is set to.
fn wanted(settings: &config::Store) -> Vec<(&'static str, String)> {
    let milliseconds = |time: Duration| time.as_millis().to_string();
    vec![
        ("statement_timeout", milliseconds(settings.statement_timeout)),
        ("lock_timeout", milliseconds(settings.lock_timeout)),
        ("idle_in_transaction_session_timeout", milliseconds(settings.idle_in_transaction_timeout)),
        // What is committed is durable, whatever the server's default.
        ("synchronous_commit", "on".into()),
        ("default_transaction_isolation", "read committed".into()),
        ("TimeZone", "UTC".into()),
        ("extra_float_digits", "2".into()),
        // A plan that was made for an empty table is never kept: during a build, tables grow long before the
        // server analyzes them.
        ("plan_cache_mode", "force_custom_plan".into()),
        // Notices of what exists already are no news.
        ("client_min_messages", "warning".into()),
        ("tcp_user_timeout", milliseconds(settings.idle_in_transaction_timeout)),
        ("tcp_keepalives_idle", "10".into()),
        ("tcp_keepalives_interval", "5".into()),
        ("tcp_keepalives_count", "3".into()),
    ]
}

/// Finds out whether two sessions share a server's session, as they do behind a pooler in transaction mode:
/// the second one begins a transaction, and either has the session that the first one had, or leaves another
/// one to it.
pub(super) async fn check_pooling(
    first: &mut PgConnection,
    second: &mut PgConnection,
) -> Result<(), StoreError> {
    for _ in 0..3 {
        let before = session(first).await?;
        let begun = sqlx::raw_sql("begin").execute(&mut *second).await;
        if let Err(error) = begun {
            // Statement mode takes no transactions.
            return Err(StoreError::Setup(Setup::new(to_text(&error), POOLER)));
        }
        let other = session(second).await?;
        let after = session(first).await?;
        sqlx::raw_sql("rollback").execute(&mut *second).await.map_err(classify)?;
        if before == other || before != after {
            return Err(StoreError::Setup(Setup::new(
                "between the host and Postgres stands a pooler in transaction mode, in which time limits, locks and prepared statements do not last",
                POOLER,
            )));
        }
    }
    Ok(())
}

/// The server's own number of a session.
async fn session(connection: &mut PgConnection) -> Result<String, StoreError> {
    let row = sqlx::raw_sql("select pg_backend_pid()::text").fetch_one(connection).await.map_err(classify)?;
    Ok(row.get(0))
}

/// Why a server does not let the host in.
fn refused(member: &Member, error: sqlx::Error) -> StoreError {
    let name = &member.name;
    let setup =
        |problem: String, remedy: &str| StoreError::Setup(Setup::new(format!("{name}: {problem}"), remedy));
    if has_no_tls(&error) {
        return StoreError::Setup(tls::no_tls(name));
    }
    if let Some(problem) = tls_error(&error) {
        return certificate(member, problem);
    }
    match &error {
        sqlx::Error::Io(error) => {
            let said = io_in_words(error);
            let lookup = said.contains("lookup address");
            let hint = if lookup { " (is the host name of the store's url right?)" } else { "" };
            StoreError::Unavailable(Outage::new(format!("{name}: {said}{hint}")))
        }
        sqlx::Error::Tls(source) => {
            setup(format!("TLS: {source}"), "correct the server's TLS, or the store's url")
        }
        sqlx::Error::Configuration(source) => setup(source.to_string(), "correct the store's url"),
        sqlx::Error::Protocol(said) if said.contains("authentication") => setup(
            said.clone(),
            "let pg_hba.conf ask for scram-sha-256, md5, password or cert: the host knows no other way",
        ),
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default().into_owned();
            let said = database.message();
            let (role, base) = (member.role(), member.database());
            let who = format!("the role {role:?} is not let in to the database {base:?}: {said}");
            // PgBouncer tells everything as 08P01.
            let speaks_of = |words: &[&str]| code == "08P01" && words.iter().any(|word| said.contains(word));
            if code == "28P01" || speaks_of(&["password authentication failed", "SASL authentication failed"])
            {
                setup(
                    who,
                    "correct the password in the store's settings, or the role's password in the database",
                )
            } else if code.starts_with("28") || speaks_of(&["no such user", "login rejected", "auth failed"])
            {
                setup(
                    who,
                    "correct the role, the client certificate or sslmode of the store's url, or pg_hba.conf",
                )
            } else if code == "3D000" || speaks_of(&["no such database"]) {
                setup(
                    format!("{said} (the database {base:?})"),
                    "create the database, or correct the store's url",
                )
            } else if code == "42501" {
                setup(
                    format!("the role {role:?} may not connect to the database {base:?}: {said}"),
                    &format!("`grant connect on database \"{base}\" to \"{role}\"`"),
                )
            } else if speaks_of(&["unsupported startup parameter"]) {
                setup(said.to_owned(), "leave `options` out of the store's url")
            } else {
                match classify(error) {
                    StoreError::Unavailable(outage) => {
                        let message = format!("{name}: {}", outage.message);
                        StoreError::Unavailable(Outage { message, ..outage })
                    }
                    StoreError::Setup(Setup { problem, remedy }) => setup(problem, &remedy),
                    other => other,
                }
            }
        }
        error => StoreError::Unavailable(Outage::new(format!("{name}: {}", to_text(error)))),
    }
}

fn tls_error(error: &sqlx::Error) -> Option<&rustls::Error> {
    match error {
        sqlx::Error::Io(error) => error.get_ref()?.downcast_ref(),
        sqlx::Error::Tls(source) => source.downcast_ref(),
        _ => None,
    }
}

fn certificate(member: &Member, error: &rustls::Error) -> StoreError {
    use rustls::{CertificateError as Wrong, Error};
    let (name, host) = (&member.name, &member.host);
    let (problem, remedy) = match error {
        Error::InvalidCertificate(Wrong::Expired | Wrong::ExpiredContext { .. }) => {
            ("the server's certificate has expired".to_owned(), "renew the server's certificate".to_owned())
        }
        Error::InvalidCertificate(Wrong::NotValidYet | Wrong::NotValidYetContext { .. }) => (
            "the server's certificate is not valid yet".to_owned(),
            "set this machine's clock, or renew the certificate".to_owned(),
        ),
        Error::InvalidCertificate(Wrong::UnknownIssuer | Wrong::BadSignature) => (
            "the server's certificate is not by a trusted authority".to_owned(),
            "name its authority's certificate in the store's url: sslrootcert=/path/to/ca.pem".to_owned(),
        ),
        Error::InvalidCertificate(Wrong::NotValidForName | Wrong::NotValidForNameContext { .. }) => (
            format!("the server's certificate is not for the host {host:?}"),
            "write the host as the certificate names it, or say sslmode=verify-ca".to_owned(),
        ),
        Error::AlertReceived(alert) => (
            format!("the server ends TLS: {alert:?}"),
            "if it speaks of a certificate: correct sslcert and sslkey of the store's url".to_owned(),
        ),
        error => (format!("TLS: {error}"), "correct the server's certificate, or the store's url".to_owned()),
    };
    StoreError::Setup(Setup::new(format!("{name}: {problem}"), remedy))
}
