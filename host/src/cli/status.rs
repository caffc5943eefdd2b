//! `projector status`: how every projection stands, for a person.

use comfy_table::{Table, presets};

use super::{CliError, ConfigArgument, Output};
use crate::operations::status::{PartitionStatus, Progress, ProjectionStatus, status};
use crate::store::deployments::Role;

/// Show how current and complete every read model is.
///
/// Read from the database and the brokers, not from a running host: a dead host's projections are
/// shown as well. `lag` counts what is committed in the log and not in the read model; `freshness`
/// is the age of the oldest such event, zero when there is none.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Only this projection.
    projection: Option<String>,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.config.load()?;
    let status = super::runtime()?.block_on(status(&config, arguments.projection.as_deref()))?;
    if arguments.output == Output::Json {
        return super::print_json(&status);
    }
    if status.projections.is_empty() {
        println!("No projection was ever installed in these databases.");
    }
    status.projections.iter().for_each(print);
    Ok(())
}

fn print(projection: &ProjectionStatus) {
    let state = match (&projection.halted, projection.fresh) {
        (Some(trouble), _) => format!("STANDS STILL: {}", trouble.reason),
        (None, true) => "fresh".to_owned(),
        (None, false) if projection.lag == 0 => "not fresh: see below".to_owned(),
        (None, false) => match projection.freshness_ms {
            Some(age) => format!("{} events behind, the oldest {} old", projection.lag, seconds(age)),
            None => format!("{} events behind", projection.lag),
        },
    };
    let role = match projection.role {
        Role::Live => String::new(),
        role => format!(" ({})", role.as_str()),
    };
    println!(
        "{} {} · generation {}{role} · {state}",
        projection.name, projection.version, projection.generation
    );
    if let Some(Progress { events_per_second, remaining_seconds }) = projection.building {
        let remaining = remaining_seconds.map_or("unknown".into(), |left| seconds((left * 1_000.0) as i64));
        println!("  built with {events_per_second:.0} events per second; remaining: {remaining}");
    }
    if let Some(trouble) = &projection.halted {
        println!("  what to do: {}", trouble.kind.advice());
    }
    if let Some(report) = &projection.impure {
        println!("  NOT A PURE FUNCTION: {report}");
    }
    let counters = projection.counters;
    println!(
        "  read {} = applied {} + ignored {} + parked {} + dead {} + skipped {}",
        counters.read, counters.applied, counters.ignored, counters.parked, counters.dead, counters.skipped
    );
    for (outcome, codes) in [
        ("ignored", &projection.ignored_by_code),
        ("dead", &projection.dead_by_code),
        ("skipped", &projection.skipped_by_code),
    ] {
        for (code, events) in codes {
            println!("  {outcome} {code}: {events}");
        }
    }
    if projection.without_id > 0 {
        println!("  without an event id: {} (their duplicates cannot be told)", projection.without_id);
    }
    for topic in &projection.missing_topics {
        println!("  topic {topic} does not exist");
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header([
        "topic",
        "partition",
        "checkpoint",
        "log end",
        "lag",
        "freshness",
        "dead",
        "",
    ]);
    for partition in &projection.partitions {
        let seen = partition.visibility;
        table.add_row([
            partition.topic.clone(),
            partition.partition.to_string(),
            partition.checkpoint.map_or("-".into(), |checkpoint| checkpoint.to_string()),
            seen.map_or("-".into(), |seen| seen.log_end.to_string()),
            seen.map_or("-".into(), |seen| seen.lag.to_string()),
            seen.map_or("-".into(), |seen| seen.freshness_ms.map_or("?".into(), seconds)),
            partition.counters.dead.to_string(),
            remark(partition),
        ]);
    }
    println!("{table}\n");
    projection.beside.iter().for_each(print);
}

fn remark(partition: &PartitionStatus) -> String {
    match (&partition.paused, partition.visibility.and_then(|seen| seen.open_transaction_ms)) {
        (Some(reason), _) => format!("PAUSED: {reason}"),
        (None, Some(age)) => format!("a producer's transaction has been open for {}", seconds(age)),
        (None, None) => String::new(),
    }
}

fn seconds(milliseconds: i64) -> String {
    format!("{:.1} s", milliseconds as f64 / 1_000.0)
}
