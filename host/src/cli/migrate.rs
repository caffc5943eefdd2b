//! `projector migrate`: creates or upgrades the host's own tables, without starting a host.

use projector_store::schema::Pending;

use super::terminal::out;
use super::{CliError, ConfigArgument, Output};
use crate::operations::migrate::{Migrated, migrate};

/// Create or upgrade the host's own tables in the databases, or show what would be done.
///
/// A host does the same when it starts. No other command creates or changes these tables. Other commands
/// refuse a database that no host has used yet, or whose tables have another version.
///
/// Hosts of the previous version can keep running during the migration, and beside hosts of this version. A
/// change that removes something waits until no host of the previous version is live. Each change takes all
/// of its locks or none: it waits for them for at most half a second, and is retried for 30 seconds.
///
/// Example: projector migrate --dry-run
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Change nothing; show the pending changes.
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
        (None, true, _) => out!("{store}: {version}, now upgraded to version {known}"),
        (None, false, true) => out!("{store}: {version}: nothing to do"),
        (None, false, false) => out!("{store}: {version}; changes that lead to version {known}:"),
    }
    for Pending { version, description } in before.pending.iter().filter(|_| !done) {
        out!("  {version:04} {description}");
    }
}
