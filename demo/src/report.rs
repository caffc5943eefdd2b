//! What became of the events, as a table.

use anyhow::{Result, ensure};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use crate::host::Projected;

pub(crate) fn print(projected: &[Projected]) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic).set_header([
        "projection",
        "read",
        "= applied",
        "+ ignored",
        "+ parked",
        "+ waiting",
        "+ dead",
        "+ skipped",
        "freshness",
        "events/s",
    ]);
    for Projected { projection, took } in projected {
        let counters = &projection.counters;
        let ignored = match projection.ignored_by_code.is_empty() {
            true => counters.ignored.to_string(),
            false => {
                let codes = projection.ignored_by_code.iter().map(|(code, count)| format!("{count} {code}"));
                codes.collect::<Vec<_>>().join("\n")
            }
        };
        table.add_row([
            projection.name.clone(),
            counters.read.to_string(),
            counters.applied.to_string(),
            ignored,
            counters.parked.to_string(),
            counters.waiting.to_string(),
            counters.dead.to_string(),
            counters.skipped.to_string(),
            projection.freshness_ms.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms} ms")),
            format!("{:.0}", counters.read as f64 / took.as_secs_f64()),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

/// The books must be closed, and hold every event that was published.
pub(crate) fn check(projected: &[Projected]) -> Result<()> {
    for Projected { projection, .. } in projected {
        let read = projection.counters.read;
        ensure!(projection.counters.are_closed(), "{}: the counters do not add up", projection.name);
        ensure!(
            read == projection.published(),
            "{}: {read} events were read, {} published",
            projection.name,
            projection.published()
        );
    }
    Ok(())
}
