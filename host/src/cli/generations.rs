//! `projector diff`, `promote`, `retire`, `stop`, `start` and `drop`.

use serde_json::json;

use super::control::print_outcome;
use super::terminal::out;
use super::{AuditedArgs, CliError, ConfigArgument, Output};
use crate::deploy::promote::{Ask, OldSnapshots};
use crate::deploy::reach::Gaps;
use crate::deploy::readers::Move;
use crate::operations::OperationError;
use crate::operations::deployments::{self, Compared};
use crate::store::diff::TableDiff;

/// Compare a generation with the live one, row by row, at the same offsets.
///
/// Both generations stop for a moment, until each is at the offsets of the other. A snapshot of both is opened
/// there. Both go on while the snapshot is compared. They stop for at most a second. If that is too short, the
/// command tries again, five times in all; if one of them is behind and does not move, the command refuses at once,
/// and neither stops. The exit code is 1 if they differ in what is not expected to differ.
///
/// Example: projector diff order-search --expect order_search.customer_name
#[derive(Debug, clap::Args)]
pub(super) struct DiffArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// The generation's number. Default: the generation that is being built, or else the one that was live
    /// before.
    #[arg(long)]
    generation: Option<i32>,
    /// A table or column that may differ, in addition to `expected-differences` of the configuration. May be
    /// given several times.
    #[arg(long, value_name = "TABLE[.COLUMN]")]
    expect: Vec<String>,
    /// How many of the rows that differ to show of each table.
    #[arg(long, default_value_t = 10)]
    samples: usize,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Show another generation to readers, in one transaction.
///
/// Views that readers know show the generation from then on, if it has all of their columns: rights, comments and
/// dependent objects of the views stay. Columns that are new are shown by new views, in a schema of their own, which
/// have the rights of the views before. Views of which a column is gone stay with the old generation, and the command
/// names the readers that must change.
///
/// The generation before is kept current, so that `projector rollback` can switch back.
///
/// The command refuses a generation that is behind the live one (readers would see a step back), that is not
/// fresh, or that differs from the live one in what is not expected to differ.
///
/// The command waits for transactions of readers that are in the way, for 10 s at most, and names them: those that
/// have read the views already, and those (repeatable read) whose snapshot is from before the generation was
/// complete.
#[derive(Debug, clap::Args)]
pub(super) struct Promote {
    #[command(flatten)]
    deed: AuditedArgs,
    /// The generation's number. Default: the generation that is being built, or else the one that was live
    /// before.
    #[arg(long)]
    generation: Option<i32>,
    /// Promote even if it is not fresh or its rows differ. A generation that is behind is still refused.
    #[arg(long, requires = "reason")]
    force: bool,
    /// Promote even if it could not read all events that the live generation has read. The refusal says how many
    /// events and rows that is.
    #[arg(long, requires = "reason")]
    allow_gap: bool,
    /// Promote even if transactions are open whose snapshot is from before the generation was complete. In
    /// its views, these transactions may see fewer rows than before, or none.
    #[arg(long, requires = "reason")]
    ignore_old_snapshots: bool,
    /// Reason, recorded in the history.
    #[arg(long)]
    reason: Option<String>,
}

/// Remove a generation that is not live: its tables, and the views that only it has.
///
/// The command removes only what Projector made. If a view, table, function or other object of a person would be
/// lost or broken, nothing is removed, and the command names these objects. Hosts do the same by themselves with
/// generations that were live before, beyond `warm-generations` of `[keep]`, unless views of their own may still be
/// read.
///
/// With `--views`, the command removes views that keep the columns which readers knew before others were added. The
/// generation stays, and so do its newest views.
///
/// Example: projector retire order-search --generation 1
#[derive(Debug, clap::Args)]
pub(super) struct Retire {
    #[command(flatten)]
    deed: AuditedArgs,
    /// The generation's number. Default: the generation that was live before, or else the one that is being
    /// built.
    #[arg(long, conflicts_with = "views")]
    generation: Option<i32>,
    /// Only the views in this schema (Postgres), or with this prefix (SQLite), as `projector status` names it.
    #[arg(long, value_name = "SCHEMA")]
    views: Option<String>,
    /// Reason, recorded in the history.
    #[arg(long)]
    reason: Option<String>,
}

/// Stop a projection on all hosts, until `projector start`.
///
/// No host runs any generation of the projection. Rows and checkpoints stay. Removing the file from the plugin
/// directory does not stop a projection; this command does.
#[derive(Debug, clap::Args)]
pub(super) struct Stop {
    #[command(flatten)]
    deed: AuditedArgs,
    /// Reason, recorded in the history and shown by `projector status`.
    #[arg(long)]
    reason: String,
}

/// Start a projection that was stopped with `projector stop`.
#[derive(Debug, clap::Args)]
pub(super) struct Start {
    #[command(flatten)]
    deed: AuditedArgs,
    /// Reason, recorded in the history (optional).
    #[arg(long)]
    reason: Option<String>,
}

/// Drop a stopped projection: its tables, its views and its dead letters are deleted.
///
/// Its history and the requests of operators are kept, and say who dropped it. A file in the plugin directory does
/// not bring it back; `projector deploy` does. Objects of other people are never dropped: see `projector retire`.
#[derive(Debug, clap::Args)]
pub(super) struct Drop {
    #[command(flatten)]
    deed: AuditedArgs,
    /// Reason, recorded in the history.
    #[arg(long)]
    reason: String,
}

impl DiffArguments {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let Self { projection, generation, expect, samples, output, .. } = self;
        let compared = deployments::diff(&config, &projection, generation, &expect, samples);
        let compared = super::runtime()?.block_on(compared)?;
        match output {
            Output::Json => super::print_json(&compared)?,
            Output::Text => print(&compared),
        }
        match compared.diff.is_equal() {
            true => Ok(()),
            false => Err(CliError::Operation(OperationError::Failed("the generations differ".into()))),
        }
    }
}

impl Promote {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.with_reason(self.reason);
        let ask = if self.force { Ask::Nothing } else { Ask::Equal };
        let snapshots = if self.ignore_old_snapshots { OldSnapshots::Ignore } else { OldSnapshots::Refuse };
        let terms = (ask, snapshots, Gaps::of(self.allow_gap));
        let promote = deployments::promote(&config, &self.deed.projection, self.generation, terms, &asked);
        let promotion = super::runtime()?.block_on(promote)?;
        let how = match promotion.promoted.replaced {
            true => "the views that they know show it",
            false => "in new views; the old ones are served as well",
        };
        let mut words = format!(
            "{}: readers see generation {} at {} ({how}); generation {} is kept current.",
            self.deed.projection, promotion.generation, promotion.promoted.readers, promotion.before
        );
        if !promotion.beyond_reach.is_empty() {
            words = format!("{words}\n  {}.", promotion.beyond_reach.to_text());
        }
        for line in promotion.move_readers.iter().flat_map(Move::to_lines) {
            words = format!("{words}\n  {line}");
        }
        print_outcome(self.deed.output, &words, &json!(promotion))
    }
}

impl Retire {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.with_reason(self.reason);
        if let Some(views) = self.views {
            let retire = deployments::retire_views(&config, &self.deed.projection, &views, &asked);
            super::runtime()?.block_on(retire)?;
            let words = format!("The views in {views} of {} are removed.", self.deed.projection);
            let document = json!({ "projection": self.deed.projection, "retired_views": views });
            return print_outcome(self.deed.output, &words, &document);
        }
        let retire = deployments::retire(&config, &self.deed.projection, self.generation, &asked);
        let number = super::runtime()?.block_on(retire)?;
        let words = format!("Generation {number} of {} is removed.", self.deed.projection);
        print_outcome(
            self.deed.output,
            &words,
            &json!({ "projection": self.deed.projection, "retired": number }),
        )
    }
}

impl Stop {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.with_reason(Some(self.reason));
        super::runtime()?.block_on(deployments::set_stopped(&config, &self.deed.projection, true, &asked))?;
        print_outcome(
            self.deed.output,
            &format!("{} is stopped.", self.deed.projection),
            &json!({ "stopped": self.deed.projection }),
        )
    }
}

impl Start {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.with_reason(self.reason);
        super::runtime()?.block_on(deployments::set_stopped(
            &config,
            &self.deed.projection,
            false,
            &asked,
        ))?;
        print_outcome(
            self.deed.output,
            &format!("{} is started.", self.deed.projection),
            &json!({ "started": self.deed.projection }),
        )
    }
}

impl Drop {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.with_reason(Some(self.reason));
        super::runtime()?.block_on(deployments::drop_projection(&config, &self.deed.projection, &asked))?;
        print_outcome(
            self.deed.output,
            &format!("{} is dropped.", self.deed.projection),
            &json!({ "dropped": self.deed.projection }),
        )
    }
}

fn print(Compared { diff, move_readers }: &Compared) {
    for table in &diff.tables {
        let TableDiff { table: name, rows_old, rows_new, only_in_old, only_in_new, differ, .. } = table;
        out!(
            "{name}: {rows_old} rows live, {rows_new} new; only live {only_in_old}, only new {only_in_new}, different {differ}"
        );
        if let Some(reason) = &table.reason {
            out!("  not compared: {reason}");
        }
        for (column, rows) in &table.by_column {
            out!("  {column} differs in {rows} rows");
        }
        for sample in &table.samples {
            out!("  {}", json!(sample));
        }
    }
    for (which, tables) in [("live", &diff.tables_only_in_old), ("new", &diff.tables_only_in_new)] {
        for table in tables {
            out!("{table}: only in the {which} generation");
        }
    }
    for (which, waiting) in ["live", "new"].into_iter().zip(&diff.waiting) {
        out!("waiting in the {which} generation: {}", json!(waiting));
    }
    for line in move_readers.iter().flat_map(Move::to_lines) {
        out!("{line}");
    }
    out!(
        "{}",
        if diff.is_equal() {
            "The generations hold the same rows, except for expected differences."
        } else {
            "The generations differ."
        }
    );
}
