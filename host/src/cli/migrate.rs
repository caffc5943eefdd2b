//! `projector migrate`: the host's own tables, without a host.

use super::terminal::out;
use super::{CliError, ConfigArgument, Output};
use crate::operations::migrate::{Migrated, migrate};
use crate::store::schema::Pending;

/// Bring the host's own tables in the databases up to date, or show what that would do.
///
/// A host does the same when it starts. No other command makes or changes these tables: on a database that no
/// host has ever used, or that is at another version, commands say so.
///
/// Hosts of the version before may go on meanwhile, and beside hosts of this version. A change that takes
/// something away waits until no such host is live. Each change has all of its locks or none, waits for them
/// for at most half a second, and is tried again for 30 seconds.
///
/// Example: projector migrate --dry-run
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Change nothing: show what is to be done.
    #[arg(long)]
    dry_run: bool,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let Arguments { config, dry_run, output } = arguments;
    let config = config.load()?;
    let told = |migrated: &Migrated| {
        if output == Output::Text {
            print(migrated);
        }
    };
    let all = super::runtime()?.block_on(migrate(&config, dry_run, &told))?;
    match output {
        Output::Json => super::print_json(&all),
        Output::Text => Ok(()),
    }
}

fn print(Migrated { store, before, done, error }: &Migrated) {
    let Some(before) = before else {
        return out!("{store}: {}", error.as_deref().unwrap_or_default());
    };
    let version = match before.version {
        None => "no host has ever run here".to_owned(),
        Some(version) => format!("version {version}"),
    };
    let known = before.known;
    match (error, done, before.pending.is_empty()) {
        (Some(error), ..) => out!("{store}: {version}; failed: {error}"),
        (None, true, _) => out!("{store}: {version}, and now version {known}"),
        (None, false, true) => out!("{store}: {version}: nothing to do"),
        (None, false, false) => out!("{store}: {version}; to version {known} these are to be carried out:"),
    }
    for Pending { version, description } in before.pending.iter().filter(|_| !done) {
        out!("  {version:04} {description}");
    }
}
