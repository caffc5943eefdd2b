//! `projector diff`, `promote`, `retire`, `stop`, `start` and `drop`.

use serde_json::json;

use super::control::said;
use super::{CliError, ConfigArgument, Deed, Output};
use crate::operations::OperationError;
use crate::operations::deployments;
use crate::store::diff::{Diff, TableDiff};

/// Compare a generation with the live one, row by row, at the same offsets.
///
/// Both are held for a moment, until each has come to where the other one is; a snapshot of both is opened
/// then, and they go on while it is compared. Exits with 1 if they differ in what is not expected to.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// The generation, by its number; otherwise the one that is built, or was live before.
    #[arg(long)]
    generation: Option<i32>,
    /// A table or column that is expected to differ, beside those of the configuration.
    #[arg(long, value_name = "TABLE[.COLUMN]")]
    expect: Vec<String>,
    /// How many rows to show of each table.
    #[arg(long, default_value_t = 10)]
    samples: usize,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Show another generation to readers, in one transaction.
///
/// Where it has the same tables and columns, the views that readers know show it from then on; otherwise it
/// gets views of its own, in a schema with its number, and the old ones stay. The generation before is kept
/// current: `projector rollback` is the same switch back.
///
/// Refused while it is behind the live one (readers would see a step back), is not fresh, or differs in
/// what is not expected to.
#[derive(Debug, clap::Args)]
pub(super) struct Promote {
    #[command(flatten)]
    deed: Deed,
    /// The generation, by its number; otherwise the one that is built, or was live before.
    #[arg(long)]
    generation: Option<i32>,
    /// Although it is not fresh, or differs. Never although it is behind.
    #[arg(long, requires = "reason")]
    force: bool,
    /// Why. It is kept.
    #[arg(long)]
    reason: Option<String>,
}

/// Remove a generation that is not live: its rows, and views that only it had.
#[derive(Debug, clap::Args)]
pub(super) struct Retire {
    #[command(flatten)]
    deed: Deed,
    /// The generation, by its number; otherwise the one that was live before, or is built.
    #[arg(long)]
    generation: Option<i32>,
    /// Why. It is kept.
    #[arg(long)]
    reason: Option<String>,
}

/// Stop a projection on all hosts: none runs any of its generations until it is started again.
///
/// Its rows stay, and so do its checkpoints. A file that vanishes from the plugin directory stops nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Stop {
    #[command(flatten)]
    deed: Deed,
    /// Why. It is kept, and shown by `projector status`.
    #[arg(long)]
    reason: String,
}

/// Have hosts run a projection again that was stopped.
#[derive(Debug, clap::Args)]
pub(super) struct Start {
    #[command(flatten)]
    deed: Deed,
    /// Why, if that is worth keeping.
    #[arg(long)]
    reason: Option<String>,
}

/// Drop a stopped projection: its rows, its views, its dead letters. They are lost.
///
/// What became of it is kept, and its component stays known: a file in the plugin directory does not bring
/// it back, and `projector deploy` does.
#[derive(Debug, clap::Args)]
pub(super) struct Drop {
    #[command(flatten)]
    deed: Deed,
    /// Why. It is kept.
    #[arg(long)]
    reason: String,
}

impl DiffArguments {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let Self { projection, generation, expect, samples, output, .. } = self;
        let compared = deployments::diff(&config, &projection, generation, &expect, samples);
        let diff = super::runtime()?.block_on(compared)?;
        match output {
            Output::Json => super::print_json(&diff)?,
            Output::Text => print(&diff),
        }
        match diff.is_equal() {
            true => Ok(()),
            false => Err(CliError::Operation(OperationError::Failed("the generations differ".into()))),
        }
    }
}

impl Promote {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.because(self.reason);
        let promote =
            deployments::promote(&config, &self.deed.projection, self.generation, self.force, &asked);
        let promotion = super::runtime()?.block_on(promote)?;
        let how = match promotion.promoted.replaced {
            true => "the views that they know show it",
            false => "in views of its own; the old ones are served as well",
        };
        let words = format!(
            "{}: readers see generation {} at {} ({how}); generation {} is kept current.",
            self.deed.projection, promotion.generation, promotion.promoted.readers, promotion.before
        );
        said(self.deed.output, &words, &json!(promotion))
    }
}

impl Retire {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.because(self.reason);
        let retire = deployments::retire(&config, &self.deed.projection, self.generation, &asked);
        let number = super::runtime()?.block_on(retire)?;
        let words = format!("Generation {number} of {} is gone.", self.deed.projection);
        said(self.deed.output, &words, &json!({ "projection": self.deed.projection, "retired": number }))
    }
}

impl Stop {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.because(Some(self.reason));
        super::runtime()?.block_on(deployments::set_stopped(&config, &self.deed.projection, true, &asked))?;
        said(
            self.deed.output,
            &format!("{} is stopped.", self.deed.projection),
            &json!({ "stopped": self.deed.projection }),
        )
    }
}

impl Start {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.because(self.reason);
        super::runtime()?.block_on(deployments::set_stopped(
            &config,
            &self.deed.projection,
            false,
            &asked,
        ))?;
        said(
            self.deed.output,
            &format!("{} runs again.", self.deed.projection),
            &json!({ "started": self.deed.projection }),
        )
    }
}

impl Drop {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.because(Some(self.reason));
        super::runtime()?.block_on(deployments::drop_projection(&config, &self.deed.projection, &asked))?;
        said(
            self.deed.output,
            &format!("{} is dropped.", self.deed.projection),
            &json!({ "dropped": self.deed.projection }),
        )
    }
}

fn print(diff: &Diff) {
    for table in &diff.tables {
        let TableDiff { table: name, rows_old, rows_new, only_in_old, only_in_new, differ, .. } = table;
        println!(
            "{name}: {rows_old} rows live, {rows_new} new; only live {only_in_old}, only new {only_in_new}, different {differ}"
        );
        if let Some(reason) = &table.reason {
            println!("  not compared: {reason}");
        }
        for (column, rows) in &table.by_column {
            println!("  {column} differs in {rows} rows");
        }
        for sample in &table.samples {
            println!("  {}", json!(sample));
        }
    }
    for (which, tables) in [("live", &diff.tables_only_in_old), ("new", &diff.tables_only_in_new)] {
        for table in tables {
            println!("{table}: only in the {which} one");
        }
    }
    for (which, waiting) in ["live", "new"].into_iter().zip(&diff.waiting) {
        println!("waiting in the {which} one: {}", json!(waiting));
    }
    println!(
        "{}",
        if diff.is_equal() { "They hold the same, but for what is expected." } else { "They differ." }
    );
}
