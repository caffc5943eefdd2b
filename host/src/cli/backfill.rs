//! `projector backfill`.

use std::path::PathBuf;

use super::deploy::{DeploymentArgs, progress};
use super::terminal::out;
use super::{CliError, ConfigArgument, Output, executable};
use crate::operations::backfill::{File, backfill};

/// Build all rows again in a new generation: first from a file with history that the log no longer has, then
/// from the log.
///
/// The file has one JSON object per line, in the order of projection. Its members: `topic`, `value`, and, if
/// known, `key`, `headers`, `timestamp` (milliseconds since 1970), `partition` and `offset`. A `value` that is
/// a string is that text; {"hex": "…"} is bytes (also for keys and headers); null is a tombstone; any other
/// value is the payload as it is written.
///
/// If the lines have offsets, the log is read from after the last offset of each partition. If they have none, the
/// log is read from its beginning. The command refuses a file that leaves offsets out (see --allow-gap), or that has
/// one twice. Each line is projected once: if the command is killed, run it again, and it
/// goes on where it was. The command ends at a line that cannot be read or whose event fails; the lines before
/// it are done. After the file, hosts read the log, and `projector promote` shows the generation to readers.
///
/// Example: projector backfill order-search --from events.jsonl.zst
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// The file: plain, or compressed if its name ends in .gz or .zst.
    #[arg(long, value_name = "FILE.jsonl[.gz|.zst]")]
    from: PathBuf,
    /// The number of a line to skip, counted from 1, as the error message names it. May be given several
    /// times. Its event is counted as skipped.
    #[arg(long, value_name = "LINE", requires = "reason", value_parser = clap::value_parser!(i64).range(1..))]
    skip_line: Vec<i64>,
    /// Go on even if offsets are missing: before the first line of a partition, between its lines, or between the
    /// end of the file and the beginning of the log.
    #[arg(long, requires = "reason")]
    allow_gap: bool,
    #[command(flatten)]
    waited: DeploymentArgs,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let Arguments { config, projection, from, skip_line, allow_gap, waited } = arguments;
    let config = config.load()?;
    let DeploymentArgs { asked, reason, timeout, output } = waited;
    let file = File {
        path: from,
        // By their offsets.
        skipped: skip_line.iter().map(|line| line - 1).collect(),
        allow_gap,
    };
    let asked = asked.with_reason(reason);
    let done = backfill(&config, executable()?, &projection, &file, &asked, timeout, &progress);
    let done = super::runtime()?.block_on(done)?;
    match output {
        Output::Json => super::print_json(&done),
        Output::Text => {
            out!(
                "{projection}: generation {} has {} events of {} lines (applied {}, ignored {}, skipped {}); hosts go on with the log.",
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
