//! `projector backfill`.

use std::path::PathBuf;

use super::deploy::{Waited, progress};
use super::{CliError, ConfigArgument, Output, executable};
use crate::operations::backfill::{File, backfill};

/// Build all rows anew beside the live generation: from a file with history that the log no longer has, and
/// then from the log.
///
/// The file has one JSON object a line, in the order in which they are to be projected: `topic`, `value`,
/// and, if they are known, `key`, `headers`, `timestamp` (milliseconds since 1970), `partition` and `offset`.
/// A value that is no string is the payload as it stands there; a string is that text; {"hex": "…"} is bytes,
/// as it is for keys and headers; null is a tombstone.
///
/// Where the lines have offsets, the log takes over behind the last one of each partition; where they have
/// none, it is read from its beginning. Each line is in the rows once, whatever happens: after a kill, the
/// same command goes on where it was. A line that cannot be read, or whose event fails, ends it; those before
/// it are done. Then hosts build on, and readers see the generation when it is promoted.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// The history: plain, or packed as its name says.
    #[arg(long, value_name = "FILE.jsonl[.gz|.zst]")]
    from: PathBuf,
    /// A line that is not to be projected, counted from 1, as it is named when it fails. It is counted as
    /// skipped.
    #[arg(long, value_name = "LINE", requires = "reason", value_parser = clap::value_parser!(i64).range(1..))]
    skip_line: Vec<i64>,
    /// Although there are events between the file's end and the log's beginning that neither has.
    #[arg(long, requires = "reason")]
    allow_gap: bool,
    #[command(flatten)]
    waited: Waited,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let Arguments { config, projection, from, skip_line, allow_gap, waited } = arguments;
    let config = config.load()?;
    let Waited { asked, reason, timeout, output } = waited;
    let file = File {
        path: from,
        // By their offsets.
        skipped: skip_line.iter().map(|line| line - 1).collect(),
        allow_gap,
    };
    let asked = asked.because(reason);
    let done = backfill(&config, executable()?, &projection, &file, &asked, timeout, &progress);
    let done = super::runtime()?.block_on(done)?;
    match output {
        Output::Json => super::print_json(&done),
        Output::Text => {
            println!(
                "{projection}: generation {} was fed with {} events of {} lines (applied {}, ignored {}, skipped {}); the log takes over.",
                done.generation, done.events, done.lines, done.applied, done.ignored, done.skipped
            );
            Ok(())
        }
    }
}
