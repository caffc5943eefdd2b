//! What came out, for a program and for a person.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde::Serialize;

use crate::contender::{BATCH_EVENTS, Contender, LANES};
use crate::measure::Measurement;
use crate::workload::Kind;

/// A paced contender that found too little to do in more than this part of the looks is named.
const STARVED: f64 = 0.1;

/// What was measured, round after round.
#[derive(Default)]
pub(crate) struct Measurements(BTreeMap<(Kind, Contender), Vec<Measurement>>);

/// How it was measured.
pub(crate) struct Settings {
    pub(crate) seed: u64,
    /// Of a workload; one may have fewer.
    pub(crate) events: usize,
    pub(crate) rounds: usize,
    pub(crate) partitions: i32,
    pub(crate) postgres: String,
}

#[derive(Serialize)]
struct Report {
    results: Vec<MedianOf>,
    ratios: Vec<Ratio>,
}

/// Each number is the median over the rounds.
#[derive(Serialize)]
struct MedianOf {
    workload: &'static str,
    contender: &'static str,
    lanes: usize,
    events_per_second: f64,
    cpu_us_per_event: f64,
    rss_mb: f64,
    statements_per_batch: Option<f64>,
    reads_per_batch: Option<f64>,
}

/// Events per second of a host's contender by those of another one.
#[derive(Serialize)]
struct Ratio {
    workload: &'static str,
    contender: &'static str,
    against: &'static str,
    /// Of the medians.
    ratio: f64,
    /// The least and the greatest of the rounds' own ratios.
    #[serde(skip)]
    spread: (f64, f64),
}

impl Measurements {
    pub(crate) fn add(&mut self, workload: Kind, contender: Contender, measurement: Measurement) {
        self.0.entry((workload, contender)).or_default().push(measurement);
    }

    fn median(&self, workload: Kind, contender: Contender, of: fn(&Measurement) -> f64) -> Option<f64> {
        median(self.0.get(&(workload, contender))?.iter().map(of).collect())
    }

    fn results(&self) -> Vec<MedianOf> {
        let medians = |(&(workload, contender), rounds): (&(Kind, Contender), &Vec<Measurement>)| {
            let median_of = |of: fn(&Measurement) -> f64| self.median(workload, contender, of).map(rounded);
            let per_batch = |of: fn(&Measurement) -> Option<f64>| {
                median(rounds.iter().filter_map(of).collect()).map(rounded)
            };
            Some(MedianOf {
                workload: workload.name(),
                contender: contender.name(),
                lanes: LANES,
                events_per_second: median_of(|round| round.events_per_second)?,
                cpu_us_per_event: median_of(|round| round.cpu_us_per_event)?,
                rss_mb: median_of(|round| round.rss_mb)?,
                statements_per_batch: per_batch(|round| round.statements_per_batch),
                reads_per_batch: per_batch(|round| round.reads_per_batch),
            })
        };
        self.0.iter().filter_map(medians).collect()
    }

    fn ratios(&self) -> Vec<Ratio> {
        let mut ratios = Vec::new();
        for (&(workload, contender), rounds) in &self.0 {
            let Some(native) = self.0.get(&(workload, Contender::Native)) else { continue };
            if contender == Contender::Native {
                continue;
            }
            let speed = |contender| self.median(workload, contender, |round| round.events_per_second);
            let (Some(own), Some(others)) = (speed(contender), speed(Contender::Native)) else { continue };
            let of_rounds = || {
                rounds
                    .iter()
                    .zip(native)
                    .map(|(own, native)| own.events_per_second / native.events_per_second)
            };
            ratios.push(Ratio {
                workload: workload.name(),
                contender: contender.name(),
                against: Contender::Native.name(),
                ratio: rounded(own / others),
                spread: spread(of_rounds()),
            });
        }
        ratios
    }

    /// Writes `report.json` and `report.md`; returns the latter's text.
    pub(crate) fn report(&self, settings: &Settings, directory: &Path) -> Result<String> {
        let report = Report { results: self.results(), ratios: self.ratios() };
        let text = self.text(settings, &report)?;
        let write = |name: &str, content: &[u8]| {
            let path = directory.join(name);
            fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
        };
        write("report.json", &serde_json::to_vec_pretty(&report)?)?;
        write("report.md", text.as_bytes())?;
        Ok(text)
    }

    fn text(&self, settings: &Settings, report: &Report) -> Result<String> {
        let mut text = String::from("# From Kafka to committed rows\n\n");
        writeln!(text, "{}\n", self.results_table())?;
        writeln!(text, "Medians over the rounds; in brackets the least and the greatest.\n")?;
        if !report.ratios.is_empty() {
            writeln!(text, "{}\n", ratios_table(&report.ratios))?;
            writeln!(
                text,
                "Ratios of the medians; in brackets those of the single rounds. `plain` against `native` compares like with like.\n"
            )?;
        }
        self.write_notes(&mut text, settings)?;
        Ok(text)
    }

    fn results_table(&self) -> Table {
        let mut table = numbers(
            &["workload", "contender"],
            &[
                "events/s",
                "CPU µs/event",
                "peak RSS MB",
                "statements/batch",
                "reads/batch",
                "events/batch",
                "longest pause ms",
            ],
        );
        for ((workload, contender), rounds) in &self.0 {
            let with_spread = |of: fn(&Measurement) -> f64, digits: usize| {
                let median = median(rounds.iter().map(of).collect()).unwrap_or_default();
                let (least, greatest) = spread(rounds.iter().map(of));
                format!("{median:.digits$} ({least:.digits$}–{greatest:.digits$})")
            };
            let per_batch = |of: fn(&Measurement) -> Option<f64>| {
                let median = median(rounds.iter().filter_map(of).collect());
                median.map_or_else(|| "unknown".to_owned(), |median| format!("{median:.2}"))
            };
            table.add_row([
                workload.name().to_owned(),
                contender.name().to_owned(),
                with_spread(|round| round.events_per_second, 0),
                with_spread(|round| round.cpu_us_per_event, 1),
                with_spread(|round| round.rss_mb, 0),
                per_batch(|round| round.statements_per_batch),
                per_batch(|round| round.reads_per_batch),
                with_spread(|round| round.events_per_batch, 0),
                with_spread(|round| round.longest_pause_ms, 0),
            ]);
        }
        table
    }

    fn write_notes(&self, text: &mut String, settings: &Settings) -> Result<()> {
        let Settings { seed, events, rounds, partitions, postgres } = settings;
        let cores =
            thread::available_parallelism().map_or_else(|_| "?".to_owned(), |cores| cores.to_string());
        writeln!(text, "## How\n")?;
        writeln!(text, "- {cores} cores for the contender, Kafka, Postgres and the benchmark together.")?;
        writeln!(
            text,
            "- seed {seed}, {rounds} rounds in rotating order, 3 topics of {partitions} partitions, {LANES} lane, batches of at most {BATCH_EVENTS} events."
        )?;
        writeln!(text, "- Postgres: {postgres}. Every run has a database and a consumer group of its own.")?;
        for kind in self.kinds() {
            writeln!(text, "- `{}`: {} events; {}.", kind.name(), kind.events(*events), kind.describe())?;
        }
        for contender in Contender::ALL {
            if self.0.keys().any(|(_, measured)| *measured == contender) {
                writeln!(text, "- `{}`: {}.", contender.name(), contender.describe())?;
            }
        }
        writeln!(
            text,
            "- Events per second: those after the first commit that was seen, by the time from then to the last one. CPU: user and system time of the contender's process alone, its start included, by all events it read."
        )?;
        writeln!(
            text,
            "- After every run each row was compared with the events; what does not depend on the order between topics had the same checksum for all contenders of a workload."
        )?;
        for ((workload, contender), rounds) in &self.0 {
            let starved = median(rounds.iter().map(|round| round.starved).collect()).unwrap_or_default();
            if starved > STARVED {
                writeln!(
                    text,
                    "- **`{}` with `{}` may have waited for events** in {:.0} % of the looks: it is at least this fast.",
                    contender.name(),
                    workload.name(),
                    starved * 100.0
                )?;
            }
        }
        writeln!(
            text,
            "\nMachines are noisy. Compare ratios, and only those of one run: no number of this run says anything about a number of another run, or of another machine."
        )?;
        Ok(())
    }

    fn kinds(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| self.0.keys().any(|(measured, _)| measured == kind)).collect()
    }
}

fn ratios_table(ratios: &[Ratio]) -> Table {
    let mut table = numbers(&["workload", "contender", "against"], &["ratio"]);
    for Ratio { workload, contender, against, ratio, spread: (least, greatest) } in ratios {
        table.add_row([
            (*workload).to_owned(),
            (*contender).to_owned(),
            (*against).to_owned(),
            format!("{ratio:.2} ({least:.2}–{greatest:.2})"),
        ]);
    }
    table
}

/// A table of Markdown, in whose last columns numbers stand.
fn numbers(names: &[&str], numbers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(names.iter().chain(numbers));
    for column in table.column_iter_mut().skip(names.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Between the two in the middle, where there are two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len().checked_sub(1)?;
    Some(f64::midpoint(values[middle / 2], values[middle.div_ceil(2)]))
}

fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(least, greatest), value| (least.min(value), greatest.max(value)))
}

/// No more digits than mean anything.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(events_per_second: f64) -> Measurement {
        Measurement {
            events_per_second,
            cpu_us_per_event: 10.0,
            rss_mb: 50.0,
            statements_per_batch: None,
            reads_per_batch: None,
            events_per_batch: 900.0,
            longest_pause_ms: 20.0,
            starved: 0.0,
        }
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_ratio_is_that_of_the_medians_of_the_same_workload() {
        let mut measurements = Measurements::default();
        for (plain, native) in [(90.0, 100.0), (80.0, 200.0), (100.0, 100.0)] {
            measurements.add(Kind::Mix5, Contender::Plain, measurement(plain));
            measurements.add(Kind::Mix5, Contender::Native, measurement(native));
        }
        measurements.add(Kind::Mix500, Contender::Plain, measurement(1.0));
        let ratios = measurements.ratios();
        assert_eq!(ratios.len(), 1);
        assert_eq!((ratios[0].ratio, ratios[0].spread), (0.9, (0.4, 1.0)));
    }
}
