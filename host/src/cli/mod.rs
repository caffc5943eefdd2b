//! The command line.

// All output goes through `terminal`, which does not panic when standard output is closed.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod adopt;
mod backfill;
mod component;
mod control;
mod deploy;
mod dlq;
mod duplicates;
mod generations;
mod inspect;
mod migrate;
mod move_checkpoints;
mod payload;
mod run;
mod status;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use miette::Report;
use projector_config::{Config, ConfigError};
use projector_sandbox::compile;
use projector_store::Requester;

use crate::operations::OperationError;
use terminal::{note, out};

/// Read models from Kafka, kept by sandboxed WebAssembly plugins.
///
/// Put a projection's `.wasm` file into the plugin directory and run the host. The host consumes the topics
/// that the projection declares and hands each event to the plugin. It applies the row changes that the
/// plugin returns, together with the offsets, in one transaction to the read-model database.
#[derive(Debug, Parser)]
#[command(name = "projector", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 brokers or database not reached."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Status(status::Arguments),
    Plan(deploy::PlanArguments),
    Deploy(deploy::DeployArguments),
    Rollback(deploy::Rollback),
    History(deploy::History),
    Rebuild(deploy::Rebuild),
    Backfill(backfill::Arguments),
    Diff(generations::DiffArguments),
    Promote(generations::Promote),
    Retire(generations::Retire),
    Stop(generations::Stop),
    Start(generations::Start),
    Drop(generations::Drop),
    Dlq(dlq::Arguments),
    Duplicates(duplicates::Arguments),
    Pause(control::Pause),
    Resume(control::Resume),
    Skip(control::Skip),
    MoveCheckpoints(move_checkpoints::Arguments),
    Adopt(adopt::Arguments),
    Migrate(migrate::Arguments),
    Operations(control::Operations),
    Inspect(inspect::Arguments),
    Component(component::Arguments),
    /// Compiles a component from standard input, under limits. Internal: the host starts this command
    /// itself.
    #[command(name = compile::WORKER_COMMAND, hide = true)]
    CompileWorker {
        memory_bytes: u64,
        seconds: u64,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The configuration file.
    #[arg(long, short, env = "PROJECTOR_CONFIG", default_value = "projector.toml", value_name = "FILE")]
    config: PathBuf,
}

impl ConfigArgument {
    fn load(&self) -> Result<Config, CliError> {
        let config = Config::load(&self.config).map_err(CliError::Config)?;
        projector_kafka::verify(&config.kafka)
            .map_err(|problem| CliError::Config(config.invalid(problem)))?;
        Ok(config)
    }
}

/// Who makes a request. Requests are recorded in the history.
#[derive(Debug, clap::Args)]
struct AskedArgument {
    /// Your name, recorded in the history. Default: the user that runs this command.
    #[arg(long = "as", env = "PROJECTOR_OPERATOR", value_name = "NAME")]
    by: Option<String>,
}

impl AskedArgument {
    fn with_reason(self, reason: Option<String>) -> Requester {
        let user = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
        Requester::new(self.by.or_else(user).unwrap_or_else(|| "unknown".into()), reason)
    }
}

/// Arguments of commands that act on one projection and are recorded in the history.
#[derive(Debug, clap::Args)]
struct AuditedArgs {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    #[command(flatten)]
    asked: AskedArgument,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Text for a person.
    Text,
    /// One JSON document for a program. Instants are RFC 3339, durations name their unit.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a command failed. The exit code depends on it.
enum CliError {
    Config(Box<ConfigError>),
    Operation(OperationError),
}

impl From<OperationError> for CliError {
    fn from(error: OperationError) -> Self {
        Self::Operation(error)
    }
}

impl From<projector_kafka::LogError> for CliError {
    fn from(error: projector_kafka::LogError) -> Self {
        Self::Operation(error.into())
    }
}

impl CliError {
    fn failed(message: impl Into<String>) -> Self {
        Self::Operation(OperationError::Failed(message.into()))
    }

    fn usage(message: impl Into<String>, help: &str) -> Self {
        Self::Operation(OperationError::Usage { message: message.into(), help: help.to_owned() })
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            CliError::Operation(OperationError::Failed(_)) => ExitCode::from(1),
            CliError::Config(_) | CliError::Operation(OperationError::Usage { .. }) => ExitCode::from(2),
            CliError::Operation(OperationError::Infrastructure { .. }) => ExitCode::from(3),
        }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::CompileWorker { memory_bytes, seconds } => return compile::worker(memory_bytes, seconds),
        Command::Run(arguments) => run::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Plan(arguments) => arguments.run(),
        Command::Deploy(arguments) => arguments.run(),
        Command::Rollback(rollback) => rollback.run(),
        Command::History(history) => history.run(),
        Command::Rebuild(rebuild) => rebuild.run(),
        Command::Backfill(arguments) => backfill::run(arguments),
        Command::Diff(arguments) => arguments.run(),
        Command::Promote(promote) => promote.run(),
        Command::Retire(retire) => retire.run(),
        Command::Stop(stop) => stop.run(),
        Command::Start(start) => start.run(),
        Command::Drop(drop) => drop.run(),
        Command::Dlq(arguments) => dlq::run(arguments),
        Command::Duplicates(arguments) => duplicates::run(arguments),
        Command::Pause(pause) => pause.run(),
        Command::Resume(resume) => resume.run(),
        Command::Skip(skip) => skip.run(),
        Command::MoveCheckpoints(arguments) => move_checkpoints::run(arguments),
        Command::Adopt(arguments) => adopt::run(arguments),
        Command::Migrate(arguments) => migrate::run(arguments),
        Command::Operations(operations) => operations.run(),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Component(arguments) => component::run(arguments),
    };
    match done.and_then(|()| written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            let report = match error {
                CliError::Config(error) => Report::new_boxed(error),
                CliError::Operation(error) => Report::new(error),
            };
            note!("{report:?}");
            code
        }
    }
}

/// Fails if a part of the output could not be written.
fn written() -> Result<(), CliError> {
    match terminal::failure() {
        None => Ok(()),
        Some(error) => Err(CliError::failed(format!("standard output cannot be written: {error}"))),
    }
}

/// The async runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("the async runtime cannot start its threads: {error}")))
}

/// Path of this executable. The host starts it again, as a separate process, to compile components.
fn executable() -> Result<PathBuf, CliError> {
    std::env::current_exe()
        .map_err(|error| CliError::failed(format!("the path of this executable is unknown: {error}")))
}

/// Reads a file that was named on the command line.
fn read(path: &std::path::Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|error| {
        CliError::Operation(OperationError::Usage {
            message: format!("{} cannot be read: {error}", path.display()),
            help: "name a file that exists and that you may read".into(),
        })
    })
}

fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let json = serde_json::to_string_pretty(value).map_err(|error| CliError::failed(error.to_string()))?;
    out!("{json}");
    Ok(())
}
