//! `projector dlq`: lists, shows, retries, discards and erases dead letters.

mod selection;

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use humantime_serde::re::humantime;
use projector_core::event::as_json;
use projector_core::instant::to_seconds as when;
use projector_store::dead_letters::{DeadLetterFilter, DeadLetterRecord};
use projector_store::operations::DeadLetterAction;
use serde_json::Value as Json;

use super::payload::{SHOWN_BYTES, SHOWN_CHARACTERS, escaped, text};
use super::terminal::{Listing, bounded, note, out};
use super::{AskedArgument, CliError, ConfigArgument, Output};
use crate::operations::OperationError;
use crate::operations::dead_letters::{self, DeadLetter, Done, Request, to_text};
use selection::{Bytes, Selection, hexadecimal};

/// Show, retry, discard and erase events that failed (dead letters).
///
/// A dead letter stores the event (key, payload and headers) and the reason why it failed. With the failure
/// policy `park-key`, later events of the same key wait behind it. When the dead letter is retried with
/// success or discarded, the waiting events are projected in order. The host that reads the event's
/// partition does this work, in the transaction that writes the rows; the command waits for the result.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Retry(Retry),
    Discard(Discard),
    Erase(Erase),
}

/// List dead letters, oldest first.
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    config: ConfigArgument,
    /// List only this projection.
    projection: Option<String>,
    #[command(flatten)]
    selection: Selection,
    /// Show at most this many entries.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Show a dead letter: the event, why it failed, how many events wait behind it, and what to do.
///
/// At most 16 KiB of the payload are printed. Example: projector dlq show order-search 17 --payload-to
/// 17.json
#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// The dead letter's number, as `dlq list` shows it.
    id: i64,
    /// Print the payload, key and headers in full, regardless of their length.
    #[arg(long)]
    full: bool,
    /// Write the unchanged bytes of the payload to this file.
    #[arg(long, value_name = "FILE")]
    payload_to: Option<PathBuf>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Which dead letters to retry or discard, and how.
#[derive(Debug, clap::Args)]
struct Which {
    /// The projection's name.
    projection: String,
    /// Numbers of dead letters, as `dlq list` shows them.
    ids: Vec<i64>,
    #[command(flatten)]
    selection: Selection,
    /// Select all dead letters of the projection.
    #[arg(long)]
    all: bool,
    /// Write nothing; show the row changes that would be made.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait until a host starts with the first dead letter, and then for each next one.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Project dead letters again, with the version that is active now.
///
/// If an event succeeds, its dead letter is removed, and the events behind it follow in order. If an event
/// fails again, its dead letter stays. The exit code is 1 if any event failed again.
///
/// Example: projector dlq retry order-search --code no-country --dry-run
#[derive(Debug, clap::Args)]
struct Retry {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    asked: AskedArgument,
    /// Reason, recorded in the history (optional).
    #[arg(long)]
    reason: Option<String>,
}

/// Discard dead letters for good. The events that wait behind them are projected, in order.
///
/// Example: projector dlq discard order-search 17 --reason "test order"
#[derive(Debug, clap::Args)]
struct Discard {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    asked: AskedArgument,
    /// Reason, recorded in the history.
    #[arg(long)]
    reason: String,
}

/// Erase the stored events of a key: its dead letters, and the events that wait behind them.
///
/// Erased events are counted as skipped. Rows that were written earlier stay. Later events of the key are
/// projected as usual.
#[derive(Debug, clap::Args)]
struct Erase {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// The record's key, as text.
    #[arg(long, required_unless_present = "key_hex")]
    key: Option<String>,
    /// The record's key, as hexadecimal digits.
    #[arg(long, value_name = "HEX", conflicts_with = "key", value_parser = hexadecimal)]
    key_hex: Option<Bytes>,
    #[command(flatten)]
    asked: AskedArgument,
    /// Reason, recorded in the history. Do not write the key in it, since the reason is not erased.
    #[arg(long)]
    reason: String,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    match arguments.command {
        Command::List(list) => list.run(),
        Command::Show(show) => show.run(),
        Command::Retry(Retry { config, which, asked, reason }) => {
            which.run(&config, DeadLetterAction::Retry, asked, reason)
        }
        Command::Discard(Discard { config, which, asked, reason }) => {
            which.run(&config, DeadLetterAction::Discard, asked, Some(reason))
        }
        Command::Erase(erase) => erase.run(),
    }
}

impl List {
    fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let filter = self.selection.filter(self.projection, self.limit);
        let letters = super::runtime()?.block_on(dead_letters::list(&config, &filter))?;
        if self.output == Output::Json {
            return super::print_json(&letters);
        }
        if letters.is_empty() {
            out!("No dead letters match.");
            return Ok(());
        }
        let mut table = Listing::new([
            "id",
            "projection",
            "event",
            "key",
            "failed",
            "detail",
            "attempts",
            "behind it",
            "died",
        ]);
        for DeadLetter { letter, .. } in &letters {
            table.row([
                letter.id.to_string(),
                letter.projection.clone(),
                position(letter),
                letter.event.key.as_deref().map_or("-".into(), |key| bounded(&plain(&as_json(key)), 30)),
                format!("{} ({})", letter.failure.kind, letter.failure.code),
                bounded(letter.failure.detail.lines().next().unwrap_or_default(), 60),
                letter.attempt.attempts.to_string(),
                letter.parked.map_or("-".into(), |parked| parked.to_string()),
                when(letter.attempt.died_at),
            ]);
        }
        table.print();
        if letters.len() as i64 == self.limit {
            out!("There may be more dead letters: use --limit {}", self.limit * 10);
        }
        Ok(())
    }
}

impl Show {
    fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let shown = super::runtime()?.block_on(dead_letters::show(&config, &self.projection, self.id))?;
        if self.output == Output::Json {
            return super::print_json(&shown);
        }
        let DeadLetter { letter, advice } = shown;
        let short = |text: &str| match self.full {
            true => escaped(text),
            false => bounded(&escaped(text), SHOWN_CHARACTERS),
        };
        out!("dead letter {} of {} (generation {})", letter.id, letter.projection, letter.generation);
        let line = |name: &str, text: String| out!("  {name:<10} {text}");
        let recorded =
            letter.event.timestamp_ms.map_or("without a time".into(), |ms| when(ms.saturating_mul(1_000)));
        line("event", format!("{}, recorded {recorded}", position(&letter)));
        line("key", letter.event.key.as_deref().map_or("none".into(), |key| short(&raw(&as_json(key)))));
        line(
            "failed",
            format!("{} ({}): {}", letter.failure.kind, letter.failure.code, short(&letter.failure.detail)),
        );
        line(
            "in",
            format!(
                "version {} ({}), {}; tried {} times",
                letter.attempt.version,
                &letter.attempt.digest[..12.min(letter.attempt.digest.len())],
                when(letter.attempt.died_at),
                letter.attempt.attempts
            ),
        );
        for (name, said) in [
            ("table", &letter.failure.table),
            ("column", &letter.failure.column),
            ("constraint", &letter.failure.constraint),
        ] {
            if let Some(said) = said {
                line(name, said.clone());
            }
        }
        line(
            "behind it",
            letter.parked.map_or("nothing waits".into(), |parked| format!("{parked} events wait")),
        );
        if let Some(advice) = advice {
            line("what to do", advice.to_owned());
        }
        for header in letter.content.headers.as_array().into_iter().flatten() {
            line("header", format!("{} = {}", short(&raw(&header["name"])), short(&raw(&header["value"]))));
        }
        if let Some(backtrace) = &letter.failure.backtrace {
            out!("\n{}", escaped(backtrace.trim_end()));
        }
        self.payload(&letter)
    }

    fn payload(&self, letter: &DeadLetterRecord) -> Result<(), CliError> {
        let Some(payload) = &letter.content.payload else {
            out!(
                "\n{}",
                match letter.content.oversize_bytes {
                    Some(bytes) => format!(
                        "no payload stored: its {bytes} bytes are too large, and only the log has them"
                    ),
                    None => "no payload: a tombstone".to_owned(),
                }
            );
            return match &self.payload_to {
                Some(_) => Err(CliError::failed("this dead letter has no payload to write to a file")),
                None => Ok(()),
            };
        };
        if let Some(file) = &self.payload_to {
            std::fs::write(file, payload).map_err(|error| {
                CliError::failed(format!("{} cannot be written: {error}", file.display()))
            })?;
            out!("\nThe payload, {} bytes, is in {}.", payload.len(), file.display());
            return Ok(());
        }
        let (shown, is_all) = text(payload, if self.full { usize::MAX } else { SHOWN_BYTES });
        out!("\n{shown}");
        if !is_all {
            out!(
                "\n… The payload has {} bytes: --full prints all of it, --payload-to FILE writes it to a file.",
                payload.len()
            );
        }
        Ok(())
    }
}

impl Which {
    fn run(
        self,
        config: &ConfigArgument,
        action: DeadLetterAction,
        asked: AskedArgument,
        reason: Option<String>,
    ) -> Result<(), CliError> {
        if self.ids.is_empty() && self.selection.is_empty() && !self.all {
            return Err(CliError::Operation(OperationError::Usage {
                message: "no dead letters are selected".into(),
                help: "give the numbers of dead letters, select them (--code, --key, …), or use --all".into(),
            }));
        }
        let config = config.load()?;
        let asked = asked.with_reason(reason);
        let filter = self.selection.filter(Some(self.projection.clone()), i64::MAX);
        let filter = DeadLetterFilter { ids: self.ids, ..filter };
        let text = self.output == Output::Text;
        let progress = |done: usize, all: usize| {
            if text && all > 1 {
                note!("{} of {all} dead letters: {done} done …", action.as_str());
            }
        };
        let request = Request { action, filter, dry_run: self.dry_run, asked, timeout: self.timeout };
        let all: Vec<Done> = super::runtime()?.block_on(dead_letters::request(
            &config,
            &self.projection,
            &request,
            &progress,
        ))?;
        if text {
            all.iter().for_each(print);
        }
        if !text {
            super::print_json(&all)?;
        }
        let failed = all.iter().filter(|done| !done.verdict.is_settled()).count();
        match failed {
            0 => Ok(()),
            _ => Err(CliError::failed(format!("{failed} of {} failed again", all.len()))),
        }
    }
}

fn print(done: &Done) {
    out!("{}: {}", done.dead_letter, to_text(&done.verdict));
    for change in &done.verdict.changes {
        out!(
            "  {} would {} {} {}",
            plain(&change["event"]),
            plain(&change["statement"]),
            plain(&change["table"]),
            raw(&change["arguments"])
        );
    }
}

impl Erase {
    fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let key = self.key.map(String::into_bytes).or(self.key_hex.map(|Bytes(bytes)| bytes));
        let asked = self.asked.with_reason(Some(self.reason));
        let erased = super::runtime()?.block_on(dead_letters::erase(
            &config,
            &self.projection,
            &key.unwrap_or_default(),
            &asked,
        ))?;
        match self.output {
            Output::Json => super::print_json(&serde_json::json!({ "erased": erased })),
            Output::Text => {
                out!("{erased} events are erased.");
                Ok(())
            }
        }
    }
}

fn position(letter: &DeadLetterRecord) -> String {
    format!("{}/{}@{}", letter.event.topic, letter.event.partition, letter.event.offset)
}

/// Text fit for a terminal, of a bounded length; everything else as JSON.
fn plain(json: &Json) -> String {
    projector_core::event_failure::printable(&raw(json))
}

/// Text as it is; everything else as JSON.
fn raw(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}
