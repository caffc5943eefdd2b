//! `projector backfill`.

use std::path::PathBuf;

use super::deploy::DeploymentArgs;
use super::terminal::out;
use super::{CliError, ConfigArgument, Output};
use crate::operations::Operations;
use crate::operations::backfill::File;

/// Build all rows again in a new generation: first from a file with events that the log does not hold any
/// more, then from the log.
///
/// The file has one JSON object per line, in the order in which the events are to be projected. Each object
/// has `topic` and `value`, and, if known, `key`, `headers`, `timestamp` (milliseconds since 1970),
/// `partition` and `offset`. A `value` that is a JSON string is the payload as text. {"hex": "…"} is a
/// payload in bytes (also for keys and headers). null is a tombstone. Any other JSON value is itself the
/// payload.
///
/// If the lines have offsets, the log is read from the offset after the last one of each partition. If they
/// have no offsets, the log is read from its beginning. The command refuses a file with missing offsets
/// (see --allow-gap) or with an offset that occurs twice.
///
/// Each line is projected exactly once. If the command is interrupted, run it again: it continues after the
/// last committed line. The command stops at a line that cannot be read, or whose event fails; the lines
/// before it are committed. After the file, hosts read the log. Then run `projector promote` to switch
/// readers to the new generation.
///
/// Example: projector backfill order-search --from events.jsonl.zst
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// The file with the events: plain, or compressed if its name ends in .gz or .zst.
    #[arg(long, value_name = "FILE.jsonl[.gz|.zst]")]
    from: PathBuf,
    /// The number of a line to skip, counted from 1, as in the error message. Its event is counted as
    /// skipped. May be given several times.
    #[arg(long, value_name = "LINE", requires = "reason", value_parser = clap::value_parser!(i64).range(1..))]
    skip_line: Vec<i64>,
    /// Continue even if offsets are missing: before the first line of a partition, between its lines, or
    /// between the end of the file and the beginning of the log.
    #[arg(long, requires = "reason")]
    allow_gap: bool,
    #[command(flatten)]
    waited: DeploymentArgs,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let Arguments { config, projection, from, skip_line, allow_gap, waited } = arguments;
    let config = config.load()?;
    let output = waited.output;
    let file = File {
        path: from,
        // A line's offset is its number less 1.
        skipped: skip_line.iter().map(|line| line - 1).collect(),
        allow_gap,
    };
    let done = waited.operate(&config, async |on: &Operations<'_>| on.backfill(&projection, &file).await)?;
    match output {
        Output::Json => super::print_json(&done),
        Output::Text => {
            out!(
                "{projection}: generation {} has {} events of {} lines (applied {}, ignored {}, skipped {}). Hosts continue with the log.",
                done.generation,
                done.events,
                done.lines,
                done.applied,
                done.ignored,
                done.skipped
            );
            Ok(())
        }
    }
}
