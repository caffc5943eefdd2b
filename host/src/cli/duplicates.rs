//! `projector duplicates`: lists events that were ignored because their event id was already handled.

use projector_core::instant::to_seconds as when;
use projector_store::event_ids::RecordedDuplicate;

use super::terminal::{Listing, out};
use super::{CliError, ConfigArgument, Output};
use crate::operations::duplicates;

/// List the events that were ignored as duplicates, newest first.
///
/// A topic declares where its events carry an id. An event is ignored if its id was already handled within
/// the topic's window. The list shows each duplicate with the position of the first event that had the same
/// id. Of each generation, the last 1,000 duplicates are recorded, and at most 100 of one batch. `projector
/// status` shows how many duplicates there were in total, and how many events had no id.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// How many duplicates to list.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
    most: i64,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.config.load()?;
    let found =
        super::runtime()?.block_on(duplicates::list(&config, &arguments.projection, arguments.most))?;
    if arguments.output == Output::Json {
        return super::print_json(&found);
    }
    if found.is_empty() {
        out!("No event of {} was ignored as a duplicate.", arguments.projection);
        return Ok(());
    }
    let mut table = Listing::new(["duplicate", "first", "generation", "ignored"]);
    for one in &found {
        table.row([
            format!("{}/{}@{}", one.topic, one.partition, one.offset),
            first(one),
            one.generation.to_string(),
            when(one.ignored_at),
        ]);
    }
    table.print();
    Ok(())
}

fn first(one: &RecordedDuplicate) -> String {
    match (&one.first_topic, one.first_partition, one.first_offset) {
        (Some(topic), Some(partition), Some(offset)) => format!("{topic}/{partition}@{offset}"),
        _ => "not recorded: an older version of the host stored the id".to_owned(),
    }
}
