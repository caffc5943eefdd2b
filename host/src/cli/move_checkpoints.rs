//! `projector move-checkpoints`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use humantime_serde::re::humantime;
use projector_config::{self as config, Config, Text};

use super::terminal::{Listing, out};
use super::{AskedArgument, CliError, ConfigArgument, Output};
use crate::operations::OperationError;
use crate::operations::move_checkpoints::{MovePlan, Request, Target, move_checkpoints, parse};

/// Move a projection's checkpoints to another cluster that holds the same events: a mirror after a
/// failover, or a managed service.
///
/// The configuration names the new cluster (`kafka.brokers`). There, topics have the same names, and at
/// least as many partitions. The projection must stand still: paused, stopped, or with its partitions
/// refused because the cluster or the topic is another one.
///
/// The new offsets come from a map (--map), or from the time of the last event that was read, minus an
/// overlap. The command reads this time from the old cluster (--from-brokers, --from-config), or you give
/// it (--time). Events that are read again do not change rows a second time if each topic declares an event
/// id, and the ids are remembered for long enough. A topic whose statements only set values needs no event
/// id. Other topics are refused without --accept-duplicates.
///
/// Without --yes, the command shows what it would do, and asks for confirmation. Checkpoints, topic ids and
/// the cluster's id are written in one transaction. Dead letters and parked events keep their old
/// positions; `projector dlq retry` still works for them, except if the value was too large to be stored
/// and only the old log has it. Afterwards, restart the hosts with this configuration, and run `projector
/// resume`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("way").args(["map", "time", "from_brokers", "from_config"]).required(true).multiple(true)))]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// The generation's number. Default: the live generation.
    #[arg(long)]
    generation: Option<i32>,
    #[command(flatten)]
    offsets: OffsetArguments,
    /// Move even if events may be applied twice.
    #[arg(long)]
    accept_duplicates: bool,
    /// Move the checkpoints. Without --yes, the command shows what it would do and, on a terminal, asks.
    #[arg(long, requires = "reason", conflicts_with = "dry_run")]
    yes: bool,
    /// Only show what the command would do.
    #[arg(long)]
    dry_run: bool,
    /// Reason, recorded in the history.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    asked: AskedArgument,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// How to find the offsets in the new cluster.
#[derive(Debug, clap::Args)]
struct OffsetArguments {
    /// A file with the next offset to read for each partition: lines of `topic,partition,offset`, or a JSON
    /// array of objects with these names.
    #[arg(long, value_name = "FILE", conflicts_with = "time")]
    map: Option<PathBuf>,
    /// The timestamp of the last event that was read, for all partitions: `2026-11-01T00:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = config::time)]
    time: Option<i64>,
    /// The brokers of the old cluster: `host:port`. The security settings of this configuration apply.
    #[arg(long, value_name = "BROKERS")]
    from_brokers: Option<String>,
    /// A configuration file whose [kafka] section names the old cluster.
    #[arg(long, value_name = "FILE", conflicts_with = "from_brokers")]
    from_config: Option<PathBuf>,
    /// How much earlier than the time of the last event to start reading.
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration, value_name = "TIME", conflicts_with = "map")]
    overlap: Duration,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.config.load()?;
    let request = arguments.request(&config)?;
    let Arguments { projection, yes, dry_run, reason, asked, output, .. } = arguments;
    let requester = asked.with_reason(reason);
    let confirm = |plan: &MovePlan| {
        if output == Output::Text {
            print(plan);
        }
        match (yes, plan.problems.is_empty()) {
            (true, _) => true,
            (false, true) => !dry_run && output == Output::Text && confirmed(&projection),
            (false, false) => false,
        }
    };
    super::runtime()?.block_on(async {
        let plan = move_checkpoints(&config, &projection, &request, &requester, confirm).await?;
        match (output, plan.operation) {
            (Output::Json, _) => super::print_json(&plan)?,
            (Output::Text, Some(operation)) => out!(
                "The checkpoints are moved (operation {operation}). Restart the hosts with this configuration, then run `projector resume {projection}`."
            ),
            (Output::Text, None) => out!("Nothing was changed. To move the checkpoints, add --yes and a --reason."),
        }
        match plan.problems.first() {
            Some(problem) => Err(CliError::failed(format!("the move would be refused: {problem}"))),
            None => Ok(()),
        }
    })
}

impl Arguments {
    fn request(&self, config: &Config) -> Result<Request, CliError> {
        let OffsetArguments { map, time, from_brokers, from_config, overlap } = &self.offsets;
        let to = match map {
            Some(file) => {
                let text = String::from_utf8_lossy(&super::read(file)?).into_owned();
                let map = parse(&text).map_err(|message| {
                    CliError::Operation(OperationError::Usage {
                        message: format!("{}: {message}", file.display()),
                        help: "a map gives the next offset to read of each partition in the new cluster"
                            .into(),
                    })
                })?;
                Target::Map(map)
            }
            None => Target::Time { last: *time, overlap: *overlap },
        };
        let from = match (from_brokers, from_config) {
            (Some(brokers), _) => {
                Some(config::Kafka { brokers: Text::from(brokers.as_str()), ..config.kafka.clone() })
            }
            (None, Some(file)) => Some(Config::load(file).map_err(CliError::Config)?.kafka),
            (None, None) => None,
        };
        let (generation, accept_duplicates) = (self.generation, self.accept_duplicates);
        Ok(Request { generation, to, from, accept_duplicates })
    }
}

/// Asks for confirmation, if standard input is a terminal.
fn confirmed(name: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    let mut stdout = std::io::stdout().lock();
    let mut answer = String::new();
    write!(stdout, "Type the projection's name to move it: ").and_then(|()| stdout.flush()).is_ok()
        && std::io::stdin().read_line(&mut answer).is_ok()
        && answer.trim() == name
}

fn print(plan: &MovePlan) {
    out!("{} · generation {}", plan.projection, plan.generation);
    let mut table = Listing::new([
        "topic",
        "partition",
        "old offset",
        "old cluster",
        "new offset",
        "new cluster",
        "new log",
        "last event read",
        "read again",
        "never read",
        "",
    ]);
    let number = |number: Option<i64>| number.map_or("unknown".to_owned(), |number| number.to_string());
    for of in &plan.partitions {
        table.row([
            of.topic.clone(),
            of.partition.to_string(),
            of.old.offset.to_string(),
            of.old.cluster.clone().unwrap_or_default(),
            of.new.offset.map_or("-".to_owned(), |offset| offset.to_string()),
            of.new.cluster.clone().unwrap_or_default(),
            format!("{} to {}", of.new.log_begin, of.new.log_end),
            of.last_read.clone().unwrap_or_else(|| "unknown".to_owned()),
            number(of.overlap.read_again),
            number(of.overlap.never_read),
            of.remark.clone().unwrap_or_default(),
        ]);
    }
    table.print();
    if !plan.stay.is_empty() {
        out!("Already on this cluster, and not moved: {}.", plan.stay.join(", "));
    }
    for (topic, why) in &plan.duplicates {
        out!("Events of {topic} could be applied twice: {why}.");
    }
    if plan.kept.events > 0 {
        out!(
            "{} dead letters and parked events keep their old positions, and can still be retried{}.",
            plan.kept.events,
            match plan.kept.left_in_old_log {
                0 => String::new(),
                left => format!(", except {left} whose value only the old log has"),
            }
        );
    }
    out!("This command cannot check:");
    for unknown in plan.cannot_know {
        out!("  - {unknown}");
    }
    for problem in &plan.problems {
        out!("Refused: {problem}");
    }
}
