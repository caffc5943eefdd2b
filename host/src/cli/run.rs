//! `projector run`: the host.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{CliError, ConfigArgument, LogFormat};
use crate::config::Config;
use crate::failure::FailureKind;
use crate::supervisor::{Host, Offered};

/// Run the host: every `.wasm` file in the plugin directory becomes a projection.
///
/// SIGTERM or Ctrl-C settles the transactions in flight, within `shutdown-deadline`, and exits with
/// 0. What is not settled then is rolled back, and read again by whoever comes next.
///
/// With `[admin]` in its configuration it answers HTTP requests, with JSON: GET /v1/projections and
/// /v1/projections/NAME (as `status`), /v1/projections/NAME/dead-letters and /…/dead-letters/ID,
/// /v1/operations, and /v1/retrying: what this host tries again, since when, and why. POST
/// /v1/projections/NAME/pause, /resume, /skip, /dead-letters/ID/retry and /dead-letters/ID/discard, with a
/// JSON object: `reason`, where the command of that name has it; of a skip `topic`, `partition` and `to`; of
/// a retry or discard `dry-run`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// How log lines are written, on standard error.
    #[arg(long, value_enum, env = "PROJECTOR_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Which log lines are written: a level, or directives such as `info,plugin=debug`.
    #[arg(long, env = "PROJECTOR_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.config.load()?;
    start_log(&arguments)?;
    let runtime = super::runtime()?;
    let done = runtime.block_on(host(config));
    // What did not end in time is let go: its transactions roll back with their connections.
    runtime.shutdown_background();
    done
}

fn start_log(arguments: &Arguments) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(&arguments.log)
        .map_err(|error| CliError::failed(format!("--log {:?}: {error}", arguments.log)))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match arguments.log_format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

async fn host(config: Config) -> Result<(), CliError> {
    let deadline = config.shutdown_deadline;
    let directory = config.plugins.directory.clone();
    let files = plugin_files(&directory)?;
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    let host = Arc::new(Host::new(config, super::executable()?, stop.clone())?);
    if let Some(address) = host.open_admin().await? {
        tracing::info!(%address, "the admin API listens");
    }
    let offered = load_all(&host, files).await;
    if offered.is_empty() {
        return Err(CliError::failed(format!(
            "no projection can run: {} has no component that could be loaded (the log says why)",
            directory.display()
        )));
    }
    let mut projections = JoinSet::new();
    for offered in offered {
        projections.spawn(host.clone().supervise(offered));
    }
    let all = async {
        while let Some(ended) = projections.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a projection's task broke off");
            }
        }
        // Projections that stand still are a reason to look, not to end: the host stays, and says
        // so when it is asked.
        stop.cancelled().await;
    };
    tokio::select! {
        () = all => {}
        () = async { stop.cancelled().await; tokio::time::sleep(deadline).await } => {
            tracing::warn!(?deadline, "not everything ended in time; what is open rolls back");
            return Ok(());
        }
    }
    host.close().await;
    Ok(())
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

/// The `.wasm` files of a directory, by name.
fn plugin_files(directory: &Path) -> Result<Vec<PathBuf>, CliError> {
    let entries = std::fs::read_dir(directory).map_err(|error| {
        CliError::failed(format!("the plugin directory {} cannot be read: {error}", directory.display()))
    })?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    files.sort();
    Ok(files)
}

/// Loads every file that is a sound component. A file that is not stops nobody else.
async fn load_all(host: &Arc<Host>, files: Vec<PathBuf>) -> Vec<Offered> {
    let mut offered: Vec<Offered> = Vec::new();
    let mut owners: HashMap<String, PathBuf> = HashMap::new();
    for file in files {
        let loading = tokio::task::spawn_blocking({
            let (host, file) = (host.clone(), file.clone());
            move || {
                let bytes = std::fs::read(&file).map_err(|error| error.to_string())?;
                let plugin = host.load(&file, &bytes).map_err(|error| error.to_string())?;
                Ok::<_, String>(Offered { file, bytes, plugin })
            }
        });
        let shown = file.display();
        match loading.await {
            Ok(Ok(loaded)) => {
                let name = loaded.plugin.contract.name().to_owned();
                if let Some(owner) = owners.get(&name) {
                    tracing::error!(file = %shown, "plugin refused: {} is {name} already", owner.display());
                    continue;
                }
                for dependence in projector_model::order::unsettled(&loaded.plugin.contract) {
                    tracing::warn!(
                        projection = name,
                        column = format!("{}.{}", dependence.table, dependence.column),
                        sources = dependence.sources.join(", "),
                        "the column depends on the order between partitions: {}",
                        dependence.remedy
                    );
                }
                owners.insert(name, file);
                offered.push(loaded);
            }
            Ok(Err(reason)) => tracing::error!(
                file = %shown, reason, advice = FailureKind::Component.advice(), "plugin refused"
            ),
            Err(error) => tracing::error!(file = %shown, %error, "plugin refused: loading it broke off"),
        }
    }
    offered
}
