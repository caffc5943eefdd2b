//! Opens a session with the database, and checks its settings.
//!
//! Invariants: in every session the host's time limits are in force, read back from the server itself; the database is in
//! UTF-8; of several servers, one that accepts writes is preferred.
//!
//! Why settings are not sent as startup parameters: poolers refuse parameters that they do not know. So the host sets what
//! it relies on by statements after the session has started, and reads it back.

use std::sync::Arc;
use std::time::Duration;

use projector_config as config;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};

use super::address::{Address, Member, Tls};
use super::connection_monitor::{ConnectionMonitor, ConnectionMonitors};
use super::errors::{POOLER, classify};
use super::local_socket;
use super::tls::{self, Refused};
use crate::error::StoreError;
use crate::fault::{Outage, Setup, io_to_text, to_text};

/// How long one server may take to accept the host's session.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Connected {
    pub(super) connection: PgConnection,
    pub(super) monitor: Arc<ConnectionMonitor>,
    /// `host:port`.
    pub(super) server: String,
    pub(super) database: String,
    pub(super) role: String,
    pub(super) encrypted: bool,
    /// Whether the connection is not encrypted and leaves this machine.
    pub(super) exposed: bool,
    /// Whether the url names several servers, so that another server may take over the writes.
    pub(super) one_of_several: bool,
}

/// Connects to the first server that accepts writes, with the passwords and certificates as they are now. If none does, to
/// the first server that can be read, unless the url demands one that accepts writes.
pub(super) async fn connect(
    settings: &config::Store,
    monitors: &Arc<ConnectionMonitors>,
) -> Result<Connected, StoreError> {
    let address = Address::of(settings).map_err(StoreError::Setup)?;
    let several = address.members.len() > 1;
    let (mut errors, mut read_only) = (Vec::new(), None);
    for member in &address.members {
        let attempt = tokio::time::timeout(PATIENCE, open(member, settings, (monitors, several))).await;
        match attempt.unwrap_or_else(|_| Err(no_answer(member))) {
            Ok((connected, true)) => return Ok(connected),
            Ok((connected, false)) if !several && !address.writable_only => return Ok(connected),
            Ok((connected, false)) => {
                let message = format!("{}: the server accepts no writes", member.name);
                errors.push(StoreError::Unavailable(Outage::new(message)));
                read_only.get_or_insert(connected);
            }
            Err(error) => errors.push(error),
        }
    }
    match read_only {
        Some(connected) if !address.writable_only => Ok(connected),
        _ => Err(together(errors)),
    }
}

fn no_answer(member: &Member) -> StoreError {
    StoreError::Unavailable(Outage::new(format!("{}: no answer within {PATIENCE:?}", member.name)))
}

/// One error for several servers, which says what is wrong with each. If any of the errors can pass by itself, so can this.
fn together(mut errors: Vec<StoreError>) -> StoreError {
    if errors.len() == 1
        && let Some(only) = errors.pop()
    {
        return only;
    }
    let text = |error: &StoreError| match error {
        StoreError::Setup(setup) => setup.to_string(),
        StoreError::Unavailable(outage) => outage.message.clone(),
        error => error.to_string(),
    };
    let all = errors.iter().map(text).collect::<Vec<_>>().join("; ");
    match errors.iter().all(|error| matches!(error, StoreError::Setup(_))) {
        true => StoreError::Setup(Setup::new(all, "correct each")),
        false => StoreError::Unavailable(Outage::new(all)),
    }
}

/// A session with one server, and whether the server accepts writes.
async fn open(
    member: &Member,
    settings: &config::Store,
    (monitors, one_of_several): (&Arc<ConnectionMonitors>, bool),
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
    let monitor = monitors.add(&member.name);
    let through_socket = async |options: PgConnectOptions| {
        let socket = local_socket::connect(member, monitor.clone()).await?;
        options.socket(&socket.directory).connect().await
    };
    let (mut connection, encrypted) = match &member.tls {
        Tls::Socket | Tls::Never => (through_socket(by(PgSslMode::Disable)).await.map_err(failed)?, false),
        Tls::Required => (through_socket(member.options.clone()).await.map_err(failed)?, true),
        Tls::Prefer => match through_socket(by(PgSslMode::Require)).await {
            Err(error) if has_no_tls(&error) => {
                (through_socket(by(PgSslMode::Disable)).await.map_err(failed)?, false)
            }
            connected => (connected.map_err(failed)?, true),
        },
        Tls::Pinned { authorities, any_name } => {
            let connected = tls::connect(member, (authorities, *any_name), monitor.clone()).await;
            let socket = connected.map_err(|error| match error {
                Refused::Setup(setup) => StoreError::Setup(setup),
                Refused::Io(error) => refused(member, sqlx::Error::Io(error)),
            })?;
            let options = by(PgSslMode::Disable).socket(&socket.directory);
            (options.connect().await.map_err(failed)?, true)
        }
    };
    let (takes_writes, session) = prepare(&mut connection, member, settings).await?;
    monitor.set_session(session);
    let connected = Connected {
        connection,
        monitor,
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

/// Sets what the host relies on, and reads it back. Returns whether the server accepts writes, and the server's number of
/// the session.
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
    // Simple queries (`raw_sql`): behind a pooler in transaction mode, prepared statements would fail before it is detected.
    let set = sqlx::raw_sql(AssertSqlSafe(set)).fetch_all(&mut *connection).await.map_err(classify)?;
    let mut expected: Vec<(String, String)> = set.iter().map(|row| (row.get(0), row.get(1))).collect();
    expected.push(("client_encoding".into(), "UTF8".into()));
    // The server reads these as 0 for a Unix socket, and a pooler may have its own.
    expected.retain(|(name, _)| !name.starts_with("tcp_"));
    let names: Vec<String> = expected.iter().map(|(name, _)| format!("('{name}')")).collect();
    let read = format!("select name, current_setting(name) from (values {}) as s(name)", names.join(", "));
    let read = sqlx::raw_sql(AssertSqlSafe(read)).fetch_all(&mut *connection).await.map_err(classify)?;
    let in_force: Vec<(String, String)> = read.iter().map(|row| (row.get(0), row.get(1))).collect();
    for (name, value) in &expected {
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
            "events are UTF-8: create another database with `create database … encoding 'UTF8' template template0`",
        )));
    }
    let unknown = || StoreError::Unusable(format!("{}: the session's number is {session:?}", member.name));
    Ok((writable == "true", session.parse().map_err(|_| unknown())?))
}

/// The settings of every session.
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
        // No plan is kept: during the build of a generation, tables grow long before the server analyzes them, and a plan
        // for an empty table would stay in use.
        ("plan_cache_mode", "force_custom_plan".into()),
        // Without notices that something exists already.
        ("client_min_messages", "warning".into()),
        ("tcp_user_timeout", milliseconds(settings.idle_in_transaction_timeout)),
        ("tcp_keepalives_idle", "10".into()),
        ("tcp_keepalives_interval", "5".into()),
        ("tcp_keepalives_count", "3".into()),
    ]
}

/// Refuses a pooler in transaction mode, behind which two sessions share the server's sessions. To detect it, the second
/// session begins a transaction: then it either has the server's session that the first one had, or the first one gets
/// another session of the server.
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
                "between the host and Postgres is a pooler in transaction mode, in which a session loses its time limits, locks and prepared statements",
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

/// Why a server does not accept the host's session.
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
            let text = io_to_text(error);
            let is_lookup = text.contains("lookup address");
            let hint = if is_lookup { " (is the host name of the store's url right?)" } else { "" };
            StoreError::Unavailable(Outage::new(format!("{name}: {text}{hint}")))
        }
        sqlx::Error::Tls(source) => {
            setup(format!("TLS: {source}"), "correct the server's TLS, or the store's url")
        }
        sqlx::Error::Configuration(source) => setup(source.to_string(), "correct the store's url"),
        sqlx::Error::Protocol(text) if text.contains("authentication") => setup(
            text.clone(),
            "let pg_hba.conf demand scram-sha-256, md5, password or cert: the host supports no other method",
        ),
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default().into_owned();
            let text = database.message();
            let (role, base) = (member.role(), member.database());
            let who = format!("the role {role:?} may not log in to the database {base:?}: {text}");
            // PgBouncer reports all errors as 08P01.
            let pooler_says =
                |words: &[&str]| code == "08P01" && words.iter().any(|word| text.contains(word));
            if code == "28P01"
                || pooler_says(&["password authentication failed", "SASL authentication failed"])
            {
                setup(
                    who,
                    "correct the password in the store's settings, or the role's password in the database",
                )
            } else if code.starts_with("28")
                || pooler_says(&["no such user", "login rejected", "auth failed"])
            {
                setup(
                    who,
                    "correct the role, the client certificate or sslmode of the store's url, or pg_hba.conf",
                )
            } else if code == "3D000" || pooler_says(&["no such database"]) {
                setup(
                    format!("{text} (the database {base:?})"),
                    "create the database, or correct the store's url",
                )
            } else if code == "42501" {
                setup(
                    format!("the role {role:?} may not connect to the database {base:?}: {text}"),
                    &format!("`grant connect on database \"{base}\" to \"{role}\"`"),
                )
            } else if pooler_says(&["unsupported startup parameter"]) {
                setup(text.to_owned(), "leave `options` out of the store's url")
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
            "the server's certificate is not signed by a trusted authority".to_owned(),
            "name its authority's certificate in the store's url: sslrootcert=/path/to/ca.pem".to_owned(),
        ),
        Error::InvalidCertificate(Wrong::NotValidForName | Wrong::NotValidForNameContext { .. }) => (
            format!("the server's certificate is not for the host {host:?}"),
            "write the host as the certificate names it, or set sslmode=verify-ca".to_owned(),
        ),
        Error::AlertReceived(alert) => (
            format!("the server ends TLS: {alert:?}"),
            "if the alert is about a certificate: correct sslcert and sslkey of the store's url".to_owned(),
        ),
        error => (format!("TLS: {error}"), "correct the server's certificate, or the store's url".to_owned()),
    };
    StoreError::Setup(Setup::new(format!("{name}: {problem}"), remedy))
}
