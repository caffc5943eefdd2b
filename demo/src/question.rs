//! What the read model is for.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Row};

const THIRTY_DAYS: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const ROWS_SHOWN: usize = 10;

/// All orders of customers in Germany that contain a yoga mat, of the 30 days before `now`, the
/// latest first. Every column is text, or null.
pub(crate) fn yoga_mats_in_germany(now: SystemTime) -> String {
    let since = humantime::format_rfc3339_seconds(now - THIRTY_DAYS);
    format!(
        r"select order_id,
       customer_name,
       datetime(confirmed_at / 1000000, 'unixepoch') as confirmed,
       printf('%.2f', total_cents / 100.0) as total,
       (select group_concat(format('%d %s', value ->> 'qty', value ->> 'sku'), ', ')
          from json_each(items)) as basket
  from order_search__order_search
 where customer_country = 'DE'
   and confirmed_at >= unixepoch('{since}') * 1000000
   and exists (select 1 from json_each(items) where value ->> 'sku' = 'yoga-mat')
 order by confirmed_at desc"
    )
}

/// Prints the question, the first rows of the answer and how many there are. No row at all is an
/// error.
pub(crate) async fn ask(read_model: &Path, question: &str) -> Result<()> {
    let mut database: SqliteConnection = SqliteConnectOptions::new()
        .filename(read_model)
        .read_only(true)
        .connect()
        .await
        .with_context(|| format!("cannot open {}", read_model.display()))?;
    let started = Instant::now();
    let rows: Vec<SqliteRow> = sqlx::query(AssertSqlSafe(question))
        .fetch_all(&mut database)
        .await
        .with_context(|| format!("the read model refuses the question\n{question}"))?;
    let took = started.elapsed();
    ensure!(!rows.is_empty(), "nobody in Germany ordered a yoga mat: that is not believable\n{question}");

    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(rows[0].columns().iter().map(|column| column.name()));
    for row in rows.iter().take(ROWS_SHOWN) {
        let cells: Result<Vec<Option<String>>, _> =
            (0..row.len()).map(|column| row.try_get(column)).collect();
        table.add_row(cells?.into_iter().map(Option::unwrap_or_default));
    }
    println!(
        "\nAll orders of customers in Germany that contain a yoga mat, of the last 30 days:\n\n{question};\n\n{table}"
    );
    println!(
        "{} of {} orders, found in {:.1} ms",
        rows.len().min(ROWS_SHOWN),
        rows.len(),
        took.as_secs_f64() * 1e3
    );
    Ok(())
}
