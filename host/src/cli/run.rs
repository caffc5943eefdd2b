//! `projector run`: the host.

use std::io::IsTerminal;
use std::sync::Arc;

use projector_config::Config;
use projector_store::{self as store, StoreError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{CliError, ConfigArgument, LogFormat};
use crate::operations::OperationError;
use crate::supervisor::Host;

/// Run the host: every `.wasm` file in the plugin directory becomes a projection.
///
/// The host watches the directory. A file that its projection never had is deployed, as by `projector
/// deploy`. Removing a file stops nothing: the database records which projections run. To stop a
/// projection, use `projector stop`.
///
/// On SIGTERM or Ctrl-C, the host finishes the transactions in flight, for at most `shutdown-deadline`, and
/// exits with 0. Transactions that are not finished by then are rolled back, and the next host reads their
/// events again.
///
/// The host exits with 2 at once if its configuration is wrong, or if every database refuses the login: a
/// wrong role, password or database, or a TLS connection that is not trusted. A host that has started does
/// not exit for such a cause: it retries until the cause is corrected.
///
/// With `[admin]` in the configuration, the host serves HTTP requests with JSON answers. GET
/// /v1/projections and /v1/projections/NAME (as `status`), /v1/projections/NAME/dead-letters and
/// /…/dead-letters/ID, /v1/operations, /v1/retrying (what this host retries, since when, and why), and
/// /v1/host (the number of tasks of this host). POST /v1/projections/NAME/pause, /resume, /skip,
/// /dead-letters/ID/retry and /dead-letters/ID/discard. The body of a POST is a JSON object with the member
/// `reason`, like the option --reason of the same command; for skip also `topic`, `partition` and `to`; for
/// retry and discard also `dry-run`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The format of log lines. They are written to standard error.
    #[arg(long, value_enum, env = "PROJECTOR_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Which log lines to write: a level, or directives such as `info,plugin=debug`.
    #[arg(long, env = "PROJECTOR_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.config.load()?;
    start_log(&arguments)?;
    if let Some(warning) = config.kafka.plain_text_warning() {
        tracing::warn!("{warning}");
    }
    raise_open_files();
    let runtime = super::runtime()?;
    let done = runtime.block_on(host(config));
    // Tasks that did not end in time are dropped: their transactions roll back when their connections
    // close.
    runtime.shutdown_background();
    done
}

/// Raises the soft limit of open files to the hard limit, at most to 65,536. The usual soft limit of 1,024
/// is too low: every projection has a connection to every broker. (That limit protects programs that use
/// `select`; the host does not.)
fn raise_open_files() {
    const MOST: u64 = 65_536;
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MOST).min(MOST);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
        if let Err(error) = raised {
            tracing::warn!(wanted, %error, "the limit of open files cannot be raised");
        }
    }
}

fn start_log(arguments: &Arguments) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(&arguments.log).map_err(|error| {
        let help = "write a level, or directives: `info,plugin=debug`";
        CliError::usage(format!("--log {:?}: {error}", arguments.log), help)
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // With this on, the subscriber panics if standard error is closed.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match arguments.log_format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

async fn host(config: Config) -> Result<(), CliError> {
    let deadline = config.shutdown_deadline;
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    check_logins(&config).await?;
    let host = Arc::new(Host::new(config, super::executable()?, stop.clone())?);
    if let Some(address) = host.open_admin().await? {
        tracing::info!(%address, "the admin API is listening");
    }
    tokio::select! {
        () = host.clone().run() => {}
        () = async { stop.cancelled().await; tokio::time::sleep(deadline).await } => {
            let deadline_ms = deadline.as_millis() as u64;
            tracing::warn!(deadline_ms, "shutdown deadline exceeded: open transactions are rolled back");
            return Ok(());
        }
    }
    host.close().await;
    Ok(())
}

/// Fails if every database refuses the login: then the configuration is wrong, and the host does not start.
/// If one database accepts the login, or one is not reachable, the host starts and retries the others.
async fn check_logins(config: &Config) -> Result<(), CliError> {
    let mut refused = None;
    for settings in config.all_stores() {
        match store::check_login(settings).await {
            Err(error @ StoreError::Setup(_)) => refused = Some(error),
            Ok(()) | Err(_) => return Ok(()),
        }
    }
    refused.map_or(Ok(()), |error| Err(OperationError::from(error).into()))
}

fn stop_on_signal(stop: CancellationToken) -> Result<(), CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| CliError::failed(format!("signals cannot be handled: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(())
}
