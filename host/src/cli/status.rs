//! `projector status`: prints the state of every projection.

use projector_config::Known;
use projector_core::failure::FailureKind;
use projector_core::generation::Role;
use projector_core::instant::to_seconds as when;
use projector_store::WaitingEvent;

use super::terminal::{Listing, note, out};
use super::{CliError, ConfigArgument, Output};
use crate::operations::OperationError;
use crate::operations::status::{PartitionStatus, Progress, ProjectionStatus, Status, UnknownTopic, status};
use crate::operations::trial::Reverted;
use crate::operations::unused::unused;

/// Show how current and how complete every read model is.
///
/// The command reads the databases and the brokers, not the hosts: it also shows projections of a host that
/// is down. `lag` is the number of events that are committed in the log and not yet in the read model.
/// `freshness` is the age of the oldest of these events, and zero if there are none.
///
/// A projection is fresh if all events were read. It is complete if all of these events are in the read
/// model. Not in the read model are: dead letters, events that wait for a row, and events that wait behind
/// one of those.
///
/// If the brokers or a database do not answer for a part (a topic that does not exist, a missing right, a
/// partition without a leader), the output names this part and the reason, and shows the rest. The exit
/// code is 0 then. The exit code is 3 if no broker answers or a database cannot be read; the known part is
/// printed first.
///
/// Example: projector status order-search
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Show only this projection.
    projection: Option<String>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.config.load()?;
    let runtime = super::runtime()?;
    for warning in runtime.block_on(unused(&config, Known::new())).into_iter().flatten() {
        note!("warning: {warning}");
    }
    let status = runtime.block_on(status(&config, arguments.projection.as_deref()))?;
    if arguments.output == Output::Json {
        super::print_json(&status)?;
        return complete(&status);
    }
    for notice in &status.notices {
        out!("{notice}");
    }
    if status.projections.is_empty() && status.unreachable_stores.is_empty() && status.notices.is_empty() {
        out!("No projection was ever deployed in these databases.");
    }
    for copy in &status.copies {
        out!("A COPY: {}: {}", copy.store, copy.why.reason);
        out!("  what to do: {}", copy.why.advice());
        out!("");
    }
    status.projections.iter().for_each(print);
    complete(&status)
}

/// The exit code: an error if the brokers or a store could not be asked at all. Called after the known part
/// is printed.
fn complete(status: &Status) -> Result<(), CliError> {
    let brokers = status.brokers.iter().map(|trouble| {
        format!("no broker answers, so the freshness of the read models is unknown: {}", trouble.reason)
    });
    let missing: Vec<String> = brokers.chain(status.unreachable_stores.iter().cloned()).collect();
    let message = missing.join("; ");
    match &status.brokers {
        _ if missing.is_empty() => Ok(()),
        Some(trouble) if trouble.kind == FailureKind::Login => {
            Err(OperationError::Usage { message, help: trouble.kind.advice().into() }.into())
        }
        Some(trouble) => Err(OperationError::Infrastructure { message, help: trouble.kind.advice() }.into()),
        None => Err(OperationError::unanswered(message).into()),
    }
}

fn print(projection: &ProjectionStatus) {
    let ProjectionStatus { active, rows, faults, counts, topics, .. } = projection;
    let state = match (&faults.halted, rows.fresh) {
        (Some(blocker), _) => format!("BLOCKED: {}", blocker.reason),
        (None, true) => "fresh".to_owned(),
        (None, false) if is_unknown(projection) => match rows.lag {
            0 => "freshness unknown: see below".to_owned(),
            lag => format!("freshness unknown: at least {lag} events behind"),
        },
        (None, false) if rows.lag == 0 => "not fresh: see below".to_owned(),
        (None, false) => match rows.freshness_ms {
            Some(age) => format!("{} events behind, the oldest {} old", rows.lag, seconds(age)),
            None => format!("{} events behind", rows.lag),
        },
    };
    let state = match rows.complete {
        true => state,
        false => format!("{state}; INCOMPLETE"),
    };
    let role = match projection.role {
        Role::Live => String::new(),
        role => format!(" ({})", role.as_str()),
    };
    out!("{} {} · generation {}{role} · {state}", projection.name, active.version, projection.generation);
    let shown = projection.views.iter().map(|views| match views.all_columns {
        true => views.schema.clone(),
        false => format!("{} (without the newest columns)", views.schema),
    });
    match &*shown.collect::<Vec<_>>() {
        [] => {}
        shown => out!("  readers see it in the views in: {}", shown.join(", ")),
    }
    if !rows.complete {
        let oldest = rows.oldest_missing_ms.map(|age| format!(", the oldest {} old", seconds(age)));
        out!(
            "  {} events that were read are not in the read model{}: {} dead letters (`projector dlq list {}`), {} events that wait for rows, and {} events that wait behind those",
            rows.missing_events,
            oldest.unwrap_or_default(),
            counts.counters.dead,
            projection.name,
            counts.counters.waiting,
            counts.counters.parked
        );
        for WaitingEvent { topic, partition, offset, row, until } in &rows.waits {
            let until = when(*until);
            out!("  {topic}/{partition}@{offset} waits for the row of {row}, until {until} in event time");
        }
    }
    if let Some(Progress { events_per_second, remaining_seconds, stands_still }) = &projection.building {
        let remaining = match (stands_still, remaining_seconds) {
            (Some(why), _) => format!("BLOCKED: {why}"),
            (None, Some(left)) => format!("remaining: {}", seconds((left * 1_000.0) as i64)),
            (None, None) => "remaining: unknown".to_owned(),
        };
        out!("  building, {events_per_second:.0} events per second; {remaining}");
    }
    if let Some(blocker) = &faults.halted {
        out!("  what to do: {}", blocker.advice());
    }
    if let Some(Reverted { version, reason, at, .. }) = &active.reverted {
        let version = version.as_deref().unwrap_or("?");
        out!("  REVERTED: version {version}, at {}: {reason}", when(*at));
    }
    if active.on_trial {
        out!(
            "  on trial: if version {} fails for an event for which the previous version does not fail, the host reverts to the previous version",
            active.version
        );
    }
    if let Some(report) = &faults.impure {
        out!("  NOT A PURE FUNCTION: {report}");
    }
    let counters = counts.counters;
    out!(
        "  read {} = applied {} + ignored {} + parked {} + waiting {} + dead {} + skipped {}",
        counters.read,
        counters.applied,
        counters.ignored,
        counters.parked,
        counters.waiting,
        counters.dead,
        counters.skipped
    );
    if counts.before_start > 0 {
        out!(
            "  before start {}: offsets in the log that are before the configured start, and are not read",
            counts.before_start
        );
    }
    for (outcome, codes) in [
        ("ignored", &counts.ignored_by_code),
        ("dead", &counts.dead_by_code),
        ("skipped", &counts.skipped_by_code),
    ] {
        for (code, events) in codes {
            out!("  {outcome} {code}: {events}");
        }
    }
    if faults.deadlocks > 0 {
        out!("  deadlocks: {} (each of these transactions was retried)", faults.deadlocks);
    }
    if counts.without_id > 0 {
        out!("  without an event id: {} (duplicates of these cannot be detected)", counts.without_id);
    }
    for UnknownTopic { topic, logical, why } in &topics.unknown_topics {
        let called =
            if topic == logical { String::new() } else { format!(" (the plugin calls it {logical})") };
        out!("  UNKNOWN: {topic}{called}: {}", why.reason);
        out!("    what to do: {}", why.advice());
    }
    for topic in topics.topics.iter().filter(|topic| topic.left_ms.is_some()) {
        out!("  topic {} was deleted, and is not read any more; its rows stay", topic.topic);
    }
    let mut table = Listing::new([
        "topic",
        "partition",
        "start",
        "checkpoint",
        "log end",
        "lag",
        "freshness",
        "dead",
        "",
    ]);
    for partition in &projection.partitions {
        let seen = partition.visibility;
        table.row([
            topic_named(projection, &partition.topic),
            partition.partition.to_string(),
            partition.start.map_or("-".into(), |start| start.to_string()),
            partition.checkpoint.map_or("-".into(), |checkpoint| checkpoint.to_string()),
            seen.map_or("-".into(), |seen| seen.log_end.to_string()),
            seen.map_or("-".into(), |seen| seen.lag.to_string()),
            seen.map_or("-".into(), |seen| seen.freshness_ms.map_or("?".into(), seconds)),
            partition.counters.dead.to_string(),
            remark(partition),
        ]);
    }
    table.print();
    out!("");
    projection.beside.iter().for_each(print);
}

/// Whether a part of the projection's state is unknown, so that it may or may not be fresh.
fn is_unknown(projection: &ProjectionStatus) -> bool {
    !projection.topics.unknown_topics.is_empty()
        || projection.partitions.iter().any(|partition| partition.unknown.is_some())
}

/// A physical topic, and its logical topics if they have other names.
fn topic_named(projection: &ProjectionStatus, physical: &str) -> String {
    match projection.topics.topics.iter().find(|topic| topic.topic == physical) {
        Some(topic) if topic.logical != [physical] && !topic.logical.is_empty() => {
            format!("{physical}\n({})", topic.logical.join(", "))
        }
        _ => physical.to_owned(),
    }
}

fn remark(partition: &PartitionStatus) -> String {
    match (&partition.paused, partition.visibility.and_then(|seen| seen.open_transaction_ms)) {
        (Some(reason), _) => format!("PAUSED: {reason}"),
        (None, _) if let Some(why) = &partition.unknown => format!("UNKNOWN: {}", why.reason),
        (None, Some(age)) => format!("a producer's transaction has been open for {}", seconds(age)),
        (None, None) => String::new(),
    }
}

fn seconds(milliseconds: i64) -> String {
    format!("{:.1} s", milliseconds as f64 / 1_000.0)
}
