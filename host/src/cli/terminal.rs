//! The output of commands: standard output, notes on standard error, and tables.
//!
//! A closed pipe (`projector … | head`) is not a failure: the rest of the output is dropped, and the
//! command ends as usual. Any other failure to write makes the exit code 1. Functions here never panic; all
//! of `cli` writes through them.

use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use comfy_table::{ContentArrangement, Table, presets};

/// Width of a table if standard output is not a terminal and `COLUMNS` is not set.
const WIDTH: u16 = 160;
/// Most characters of one cell. The JSON output is not cut.
const CELL: usize = 300;

/// The first failure to write to standard output.
static BROKEN: OnceLock<std::io::Error> = OnceLock::new();

/// Writes a line to standard output.
macro_rules! out {
    ($($text:tt)*) => { $crate::cli::terminal::write_out(format_args!($($text)*)) };
}

/// Writes a line to standard error.
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::terminal::write_note(format_args!($($text)*)) };
}

pub(super) use {note, out};

pub(super) fn write_out(text: fmt::Arguments<'_>) {
    if BROKEN.get().is_some() {
        return;
    }
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        let _ = BROKEN.set(error);
    }
}

/// A failure to write to standard error cannot be reported, and is ignored.
pub(super) fn write_note(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The failure to write to standard output, if there was one. A closed pipe is none.
pub(super) fn failure() -> Option<&'static std::io::Error> {
    BROKEN.get().filter(|error| error.kind() != ErrorKind::BrokenPipe)
}

/// Cuts a text after `most` characters.
pub(super) fn bounded(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A table that fits the terminal: cells wrap, and long ones are cut.
pub(super) struct Listing {
    table: Table,
    is_cut: bool,
}

impl Listing {
    pub(super) fn new<const N: usize>(header: [&str; N]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if !std::io::stdout().is_terminal() {
            let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
            table.set_width(columns.filter(|columns| *columns >= 40).unwrap_or(WIDTH));
        }
        Self { table, is_cut: false }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let cells = cells.map(|cell| {
            let shown = bounded(&cell, CELL);
            self.is_cut |= shown.len() != cell.len() && shown != cell;
            projector_core::event_failure::printable(&shown)
        });
        self.table.add_row(cells);
    }

    pub(super) fn print(&self) {
        out!("{}", self.table);
        if self.is_cut {
            out!("Some cells are cut (…). For the full text, use --output json.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_it_may_be_whatever_is_in_it() {
        let mut listing = Listing::new(["id", "why"]);
        listing.table.force_no_tty().set_width(80);
        listing.row(["1".into(), "because ".repeat(100)]);
        listing.row(["2".into(), "x".repeat(250)]);
        let shown = listing.table.to_string();
        assert!(listing.is_cut);
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert!(shown.contains('…') && shown.lines().count() > 8, "{shown}");
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut listing = Listing::new(["why"]);
        listing.row(["\u{1b}[2J".into()]);
        assert!(!listing.table.to_string().contains('\u{1b}') && !listing.is_cut);
    }
}
