//! `projector diff`, `promote`, `retire`, `stop`, `start` and `drop`.

use projector_core::deployment::Origin;
use projector_store::diff::TableDiff;
use serde_json::json;

use super::control::print_outcome;
use super::terminal::out;
use super::{AuditedArgs, CliError, ConfigArgument, Output};
use crate::deploy::promote::{Ask, OldSnapshots, Terms};
use crate::deploy::reach::Gaps;
use crate::deploy::readers::Move;
use crate::operations::OperationError;
use crate::operations::generations::{self, Compared};

/// Compare a generation with the live one, row by row, at the same offsets.
///
/// A generation is one build of a projection's tables. Both generations stop at the same offsets, for at
/// most one second. There, the command opens one snapshot of both. Then both continue, and the command
/// compares the snapshot. If one second is too short, the command tries again, at most five times in all.
/// If one generation is behind and does not advance, the command refuses at once and stops neither of them.
/// The exit code is 1 if the generations differ in tables or columns that are not expected to differ.
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
    /// A table or column that may differ, in addition to `expected-differences` in the configuration. May
    /// be given several times.
    #[arg(long, value_name = "TABLE[.COLUMN]")]
    expect: Vec<String>,
    /// How many different rows to show for each table.
    #[arg(long, default_value_t = 10)]
    samples: usize,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Switch readers to another generation, in one transaction.
///
/// A generation is one build of a projection's tables. Readers use views, which show the tables of one
/// generation.
///
/// A view that readers use shows the new generation from then on, if the new generation has all of the
/// view's columns. Rights, comments and dependent objects of the view stay. New columns appear in new
/// views, in a schema of their own; the new views get the rights of the previous ones. A view that has a
/// column which the new generation lacks stays with the old generation, and the command names the readers
/// that must change.
///
/// The previous generation is kept current, so that `projector rollback` can switch back.
///
/// The command refuses a generation that is behind the live one (readers would go back in time), that is
/// not fresh, or that differs from the live one in tables or columns that are not expected to differ.
///
/// The command waits for readers' transactions that block the switch, at most 10 s, and names them:
/// transactions that have already read the views, and repeatable-read transactions whose snapshot was taken
/// before the generation was complete.
#[derive(Debug, clap::Args)]
pub(super) struct Promote {
    #[command(flatten)]
    deed: AuditedArgs,
    /// The generation's number. Default: the generation that is being built, or else the one that was live
    /// before.
    #[arg(long)]
    generation: Option<i32>,
    /// Promote even if the generation is not fresh or its rows differ. A generation that is behind is still
    /// refused.
    #[arg(long, requires = "reason")]
    force: bool,
    /// Promote even if the generation could not read all events that the live one has read. The refusal
    /// says how many events and rows are affected.
    #[arg(long, requires = "reason")]
    allow_gap: bool,
    /// Promote even if transactions are open whose snapshot was taken before the generation was complete.
    /// In the new views, these transactions may see fewer rows than before, or none.
    #[arg(long, requires = "reason")]
    ignore_old_snapshots: bool,
    /// Reason, recorded in the history.
    #[arg(long)]
    reason: Option<String>,
}

/// Remove a generation that is not live: its tables, and the views that only this generation has.
///
/// The command removes only objects that Projector created. If it would remove or break an object that
/// somebody else created (a view, table, function or other), it removes nothing and names these objects.
/// Hosts also remove generations that were live before, if there are more of them than `warm-generations`
/// of `[keep]`; they keep a generation that has views of its own which readers may still use.
///
/// With `--views`, the command removes older views: those without columns that were added later. The
/// generation and its newest views stay.
///
/// Example: projector retire order-search --generation 1
#[derive(Debug, clap::Args)]
pub(super) struct Retire {
    #[command(flatten)]
    deed: AuditedArgs,
    /// The generation's number. Default: the generation that was live before; if there is none, the
    /// generation that is being built.
    #[arg(long, conflicts_with = "views")]
    generation: Option<i32>,
    /// Remove only the views in this schema (Postgres), or with this prefix (SQLite). `projector status`
    /// shows the names.
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

/// Drop a stopped projection: delete its tables, views and dead letters.
///
/// Its history and the operators' requests stay, and show who dropped it. A file in the plugin directory
/// does not bring the projection back; `projector deploy` does. Objects that somebody else created are
/// never dropped: see `projector retire`.
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
        let compared = generations::diff(&config, &projection, generation, &expect, samples);
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
        let terms = Terms {
            ask,
            snapshots,
            gaps: Gaps::of(self.allow_gap),
            origin: Origin::Command,
            requester: &asked,
        };
        let promote = generations::promote(&config, &self.deed.projection, self.generation, terms);
        let promotion = super::runtime()?.block_on(promote)?;
        let how = match promotion.promoted.replaced {
            true => "their views show it",
            false => "in new views; the old views still work",
        };
        let mut words = format!(
            "{}: readers see generation {} at {} ({how}); generation {} is kept current for a rollback.",
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
            let retire = generations::retire_views(&config, &self.deed.projection, &views, &asked);
            super::runtime()?.block_on(retire)?;
            let words = format!("The views in {views} of {} are removed.", self.deed.projection);
            let document = json!({ "projection": self.deed.projection, "retired_views": views });
            return print_outcome(self.deed.output, &words, &document);
        }
        let retire = generations::retire(&config, &self.deed.projection, self.generation, &asked);
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
        super::runtime()?.block_on(generations::set_stopped(&config, &self.deed.projection, true, &asked))?;
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
        super::runtime()?.block_on(generations::set_stopped(
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
        super::runtime()?.block_on(generations::drop_projection(&config, &self.deed.projection, &asked))?;
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
