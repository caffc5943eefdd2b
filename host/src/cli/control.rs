//! `projector pause`, `resume`, `skip` and `operations`.

use projector_core::event::Partition;
use projector_core::instant::to_seconds as when;
use serde_json::json;

use super::terminal::{Listing, out};
use super::{AuditedArgs, CliError, ConfigArgument, Output};
use crate::operations::control;

/// Pause a projection on all hosts, until `projector resume`.
///
/// The command returns when no batch is in flight. Rows and checkpoints stay as they are.
///
/// Example: projector pause order-search --reason "database maintenance"
#[derive(Debug, clap::Args)]
pub(super) struct Pause {
    #[command(flatten)]
    deed: AuditedArgs,
    /// Reason, recorded in the history and shown by `projector status`.
    #[arg(long)]
    reason: String,
}

/// Resume a projection that an operator paused, or that stopped after a failure.
///
/// Hosts also compare paused partitions with the log again, and resume those whose checkpoint fits the log.
#[derive(Debug, clap::Args)]
pub(super) struct Resume {
    #[command(flatten)]
    deed: AuditedArgs,
    /// Reason, recorded in the history (optional).
    #[arg(long)]
    reason: Option<String>,
}

/// Skip events of a partition, so that they are never read.
///
/// The checkpoint moves forward, never back, and the skipped events are counted. A running host notices the
/// change; no restart is needed.
///
/// Example: projector skip order-search --partition orders/3 --to 90 --reason "lost by retention"
#[derive(Debug, clap::Args)]
pub(super) struct Skip {
    #[command(flatten)]
    deed: AuditedArgs,
    /// The generation's number. Default: the live generation.
    #[arg(long)]
    generation: Option<i32>,
    /// The partition, as `projector status` shows it: `orders/3`.
    #[arg(long, value_name = "TOPIC/NUMBER", value_parser = partition)]
    partition: Partition,
    /// The next offset to read.
    #[arg(long, value_name = "OFFSET")]
    to: i64,
    /// Reason, recorded in the history.
    #[arg(long)]
    reason: String,
}

/// List the requests of operators, newest first: requester, request, time, reason and result.
#[derive(Debug, clap::Args)]
pub(super) struct Operations {
    #[command(flatten)]
    config: ConfigArgument,
    /// List only this projection.
    projection: Option<String>,
    /// Show at most this many entries.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

fn partition(written: &str) -> Result<Partition, String> {
    let parsed = written.rsplit_once('/').and_then(|(topic, number)| Some((topic, number.parse().ok()?)));
    parsed
        .map(|(topic, number)| Partition::new(topic, number))
        .ok_or_else(|| "write the topic, a slash, and the partition's number: `orders/3`".to_owned())
}

impl Pause {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.with_reason(Some(self.reason));
        super::runtime()?.block_on(control::pause(&config, &self.deed.projection, &asked))?;
        print_outcome(
            self.deed.output,
            &format!("{} is paused.", self.deed.projection),
            &json!({ "paused": self.deed.projection }),
        )
    }
}

impl Resume {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.with_reason(self.reason);
        super::runtime()?.block_on(control::resume(&config, &self.deed.projection, &asked))?;
        print_outcome(
            self.deed.output,
            &format!("{} is resumed.", self.deed.projection),
            &json!({ "resumed": self.deed.projection }),
        )
    }
}

impl Skip {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.deed.config.load()?;
        let asked = self.deed.asked.with_reason(Some(self.reason));
        let what =
            control::Skip { generation: self.generation, partition: self.partition.clone(), to: self.to };
        let skip = control::skip(&config, &self.deed.projection, &what, &asked);
        let skipped = super::runtime()?.block_on(skip)?;
        let words = format!(
            "The checkpoint of {} moved from {} to {}: {} offsets are counted as skipped.",
            self.partition,
            skipped.from,
            skipped.to,
            skipped.to - skipped.from
        );
        print_outcome(self.deed.output, &words, &json!(skipped))
    }
}

pub(super) fn print_outcome(
    output: Output,
    words: &str,
    document: &serde_json::Value,
) -> Result<(), CliError> {
    match output {
        Output::Json => super::print_json(document),
        Output::Text => {
            out!("{words}");
            Ok(())
        }
    }
}

impl Operations {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let asked = control::operations(&config, self.projection.as_deref(), self.limit);
        let operations = super::runtime()?.block_on(asked)?;
        if self.output == Output::Json {
            return super::print_json(&operations);
        }
        let mut table = Listing::new(["when", "who", "projection", "request", "reason", "result"]);
        for operation in &operations {
            let target = &operation.target;
            let place = match (&target.dead_letter, &target.topic, target.partition) {
                (Some(letter), ..) => format!(" {letter}"),
                (None, Some(topic), Some(partition)) => format!(" {topic}/{partition}"),
                _ => String::new(),
            };
            let verdict = match (&operation.result, operation.done_at) {
                (Some(verdict), _) => verdict.to_string(),
                (None, Some(_)) => "done".to_owned(),
                (None, None) => "open".to_owned(),
            };
            table.row([
                when(operation.asked_at),
                operation.asked_by.clone(),
                operation.projection.clone(),
                format!("{}{place}{}", operation.action, if operation.dry_run { " (dry run)" } else { "" }),
                operation.reason.clone().unwrap_or_default(),
                verdict,
            ]);
        }
        table.print();
        Ok(())
    }
}
