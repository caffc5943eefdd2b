//! `projector dlq`: what failed, and what becomes of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use comfy_table::{Table, presets};
use humantime_serde::re::humantime;
use serde_json::Value as Json;

use super::{AskedArgument, CliError, ConfigArgument, Output};
use crate::event::as_json;
use crate::operations::OperationError;
use crate::operations::dead_letters::{self, DeadLetter, Done, Request, in_words};
use crate::store::operator::{Action, Filter, Letter};

/// Look at the events that failed, try them again, or drop them.
///
/// A dead letter keeps the event as it was: key, payload, headers, and why it failed. Under the policy
/// `park-key`, later events of its key wait behind it; they follow, in order, when it was retried with
/// success, or discarded. Both are done by the host that is granted the event's partition, in the
/// transaction that writes its rows; the command waits for what came of it.
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

/// Which dead letters.
#[derive(Debug, clap::Args)]
struct Selection {
    /// How it failed: rejected, trap, limit, too-large, invalid, refused or timeout.
    #[arg(long)]
    kind: Option<String>,
    /// The plugin's code, or the host's.
    #[arg(long)]
    code: Option<String>,
    /// The record's key, as text.
    #[arg(long)]
    key: Option<String>,
    /// The record's key, as hexadecimal digits.
    #[arg(long, value_name = "HEX", conflicts_with = "key", value_parser = hexadecimal)]
    key_hex: Option<Bytes>,
    /// Those that failed since then: `2h` ago, or `2026-01-31T12:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,
    /// Those that failed until then.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<SystemTime>,
}

#[derive(Debug, Clone)]
struct Bytes(Vec<u8>);

fn hexadecimal(digits: &str) -> Result<Bytes, String> {
    hex::decode(digits).map(Bytes).map_err(|error| error.to_string())
}

fn time(written: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(written) {
        return SystemTime::now().checked_sub(ago).ok_or_else(|| "that is too long ago".to_owned());
    }
    humantime::parse_rfc3339_weak(written)
        .map_err(|_| "write how long ago (`2h`), or when (`2026-01-31T12:00:00Z`)".to_owned())
}

impl Selection {
    fn is_empty(&self) -> bool {
        let Self { kind, code, key, key_hex, since, until } = self;
        kind.is_none()
            && code.is_none()
            && key.is_none()
            && key_hex.is_none()
            && since.is_none()
            && until.is_none()
    }

    fn filter(self, projection: Option<String>, most: i64) -> Filter {
        let micros =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        Filter {
            projection,
            id: None,
            kind: self.kind,
            code: self.code,
            key: self.key.map(String::into_bytes).or(self.key_hex.map(|Bytes(bytes)| bytes)),
            since: self.since.map(micros),
            until: self.until.map(micros),
            whole: false,
            most,
        }
    }
}

/// List dead letters, oldest first.
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    config: ConfigArgument,
    /// Only of this projection.
    projection: Option<String>,
    #[command(flatten)]
    selection: Selection,
    /// No more than so many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Show the whole of a dead letter: the event, why it failed, what waits behind it, what to do.
#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// Its number, as in `dlq list`.
    id: i64,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// What is to be dealt with, and how.
#[derive(Debug, clap::Args)]
struct Which {
    /// The projection's name.
    projection: String,
    /// Numbers, as in `dlq list`.
    ids: Vec<i64>,
    #[command(flatten)]
    selection: Selection,
    /// All of the projection's.
    #[arg(long)]
    all: bool,
    /// Write nothing; show the changes that it would make.
    #[arg(long)]
    dry_run: bool,
    /// How long a host may take to begin with each.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Try dead letters again, with the plugin that is active now.
///
/// One that goes well is a dead letter no more, and those that waited behind it follow, in order. One
/// that fails again stays what it was. Exits with 1 if any did.
#[derive(Debug, clap::Args)]
struct Retry {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    asked: AskedArgument,
    /// Why, if that is worth keeping.
    #[arg(long)]
    reason: Option<String>,
}

/// Drop dead letters for good. Those that waited behind them follow, in order.
#[derive(Debug, clap::Args)]
struct Discard {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    asked: AskedArgument,
    /// Why. It is kept.
    #[arg(long)]
    reason: String,
}

/// Forget everything that is kept of a key: its dead letters and what waits behind them.
///
/// The events are counted as skipped. Rows that were written before stay; later events of the key flow.
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
    /// Why. It is kept; do not write the key here.
    #[arg(long)]
    reason: String,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    match arguments.command {
        Command::List(list) => list.run(),
        Command::Show(show) => show.run(),
        Command::Retry(Retry { config, which, asked, reason }) => {
            which.run(&config, Action::Retry, asked, reason)
        }
        Command::Discard(Discard { config, which, asked, reason }) => {
            which.run(&config, Action::Discard, asked, Some(reason))
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
            println!("No dead letter is of this kind.");
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY).set_header([
            "id",
            "projection",
            "event",
            "key",
            "failed",
            "why",
            "tried",
            "behind it",
            "died",
        ]);
        for DeadLetter { letter, .. } in &letters {
            table.add_row([
                letter.id.to_string(),
                letter.projection.clone(),
                position(letter),
                letter.key.as_deref().map_or("-".into(), |key| bounded(&plain(&as_json(key)), 30)),
                format!("{} ({})", letter.kind, letter.code),
                bounded(letter.detail.lines().next().unwrap_or_default(), 60),
                letter.attempts.to_string(),
                letter.parked.map_or("-".into(), |parked| parked.to_string()),
                when(letter.died_at),
            ]);
        }
        println!("{table}");
        if letters.len() as i64 == self.limit {
            println!("There may be more: --limit {}", self.limit * 10);
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
        println!("dead letter {} of {} (generation {})", letter.id, letter.projection, letter.generation);
        let line = |name: &str, text: String| println!("  {name:<10} {text}");
        let recorded =
            letter.timestamp_ms.map_or("without a time".into(), |ms| when(ms.saturating_mul(1_000)));
        line("event", format!("{}, recorded {recorded}", position(&letter)));
        line("key", letter.key.as_deref().map_or("none".into(), |key| plain(&as_json(key))));
        line("failed", format!("{} ({}): {}", letter.kind, letter.code, letter.detail));
        line(
            "in",
            format!(
                "version {} ({}), {}; tried {} times",
                letter.version,
                &letter.digest[..12.min(letter.digest.len())],
                when(letter.died_at),
                letter.attempts
            ),
        );
        for (name, said) in
            [("table", &letter.table), ("column", &letter.column), ("constraint", &letter.constraint)]
        {
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
        for header in letter.headers.as_array().into_iter().flatten() {
            line("header", format!("{} = {}", plain(&header["name"]), plain(&header["value"])));
        }
        if let Some(backtrace) = &letter.backtrace {
            println!("\n{}", backtrace.trim_end());
        }
        match letter.payload.as_deref().map(as_json) {
            None if letter.oversize_bytes.is_some() => println!("\nno payload: it was left in the log"),
            None => println!("\nno payload: a tombstone"),
            Some(Json::String(text)) => match serde_json::from_str::<Json>(&text) {
                Ok(document) => println!("\n{document:#}"),
                Err(_) => println!("\n{}", crate::outcome::printable(&text)),
            },
            Some(bytes) => println!("\n{}", plain(&bytes)),
        }
        Ok(())
    }
}

impl Which {
    fn run(
        self,
        config: &ConfigArgument,
        action: Action,
        asked: AskedArgument,
        reason: Option<String>,
    ) -> Result<(), CliError> {
        if self.ids.is_empty() && self.selection.is_empty() && !self.all {
            return Err(CliError::Operation(OperationError::Usage {
                message: "which dead letters?".into(),
                help: "give their numbers, select them (--code, --key, …), or say --all".into(),
            }));
        }
        let config = config.load()?;
        let asked = asked.because(reason);
        let filter = self.selection.filter(Some(self.projection.clone()), i64::MAX);
        let requests = match self.ids.as_slice() {
            [] => vec![filter],
            ids => ids.iter().map(|id| Filter { id: Some(*id), ..filter.clone() }).collect(),
        };
        let runtime = super::runtime()?;
        let text = self.output == Output::Text;
        let progress = |letter: &Letter| {
            if text {
                let Letter { id, topic, partition, offset, .. } = letter;
                eprintln!("{} of {id} ({topic}/{partition}@{offset}) …", action.as_str());
            }
        };
        let mut all: Vec<Done> = Vec::new();
        for filter in requests {
            let request = Request {
                action,
                filter,
                dry_run: self.dry_run,
                asked: asked.clone(),
                timeout: self.timeout,
            };
            let done =
                runtime.block_on(dead_letters::request(&config, &self.projection, &request, &progress))?;
            if text {
                done.iter().for_each(print);
            }
            all.extend(done);
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
    println!("{}: {}", done.dead_letter, in_words(&done.verdict));
    for change in &done.verdict.changes {
        println!(
            "  {} would {} {} {}",
            plain(&change["event"]),
            plain(&change["statement"]),
            plain(&change["table"]),
            change["arguments"]
        );
    }
}

impl Erase {
    fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let key = self.key.map(String::into_bytes).or(self.key_hex.map(|Bytes(bytes)| bytes));
        let asked = self.asked.because(Some(self.reason));
        let erased = super::runtime()?.block_on(dead_letters::erase(
            &config,
            &self.projection,
            &key.unwrap_or_default(),
            &asked,
        ))?;
        match self.output {
            Output::Json => super::print_json(&serde_json::json!({ "erased": erased })),
            Output::Text => {
                println!("{erased} events were forgotten.");
                Ok(())
            }
        }
    }
}

fn position(letter: &Letter) -> String {
    format!("{}/{}@{}", letter.topic, letter.partition, letter.offset)
}

/// Text as it is, fit for a terminal; everything else as JSON.
fn plain(json: &Json) -> String {
    match json {
        Json::String(text) => crate::outcome::printable(text),
        other => other.to_string(),
    }
}

fn bounded(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Microseconds since 1970, for a person.
pub(super) fn when(micros: i64) -> String {
    match u64::try_from(micros).ok().and_then(|micros| UNIX_EPOCH.checked_add(Duration::from_micros(micros)))
    {
        Some(time) if micros < 253_402_300_800_000_000 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => format!("{micros} µs since 1970"),
    }
}
