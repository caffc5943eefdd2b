//! What commands write: standard output, notes on standard error, and tables.
//!
//! A reader that ends early (`projector … | head`) is no failure: what it does not read is dropped, and the
//! command goes on and ends as it would have. Any other failure to write makes the exit code 1. Nothing here
//! panics, and the rest of `cli` writes by this alone.

use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use comfy_table::{ContentArrangement, Table, presets};

/// Columns of a table that is not written to a terminal, and where `COLUMNS` says nothing.
const WIDTH: u16 = 160;
/// Characters of one cell. The JSON has all.
const CELL: usize = 300;

/// Why standard output takes no more.
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

/// Without standard error there is nobody to tell.
pub(super) fn write_note(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Why something could not be written to standard output; a reader that ended early is no reason.
pub(super) fn failure() -> Option<&'static std::io::Error> {
    BROKEN.get().filter(|error| error.kind() != ErrorKind::BrokenPipe)
}

/// Text of any length, cut after so many characters.
pub(super) fn bounded(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A table that fits the terminal: cells are wrapped, and long ones cut.
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
            crate::event_failure::printable(&shown)
        });
        self.table.add_row(cells);
    }

    pub(super) fn print(&self) {
        out!("{}", self.table);
        if self.is_cut {
            out!("Some texts are cut (…): --output json shows all of them.");
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
