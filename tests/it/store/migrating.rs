//! The host's own tables: only a host and `projector migrate` make or change them.

use anyhow::Result;

use super::commands::{Desk, all_said, configuration};
use super::home::{Home, Session};
use crate::harness::{ORDER_SEARCH, guest};

/// Commands that only read, with all that they need.
const READING: [&[&str]; 7] = [
    &["status"],
    &["dlq", "list"],
    &["operations"],
    &["plan", "plugin.wasm"],
    &["history", "some-orders"],
    &["duplicates", "some-orders"],
    &["diff", "some-orders"],
];

/// Commands that ask for something.
const ASKING: [&[&str]; 3] = [
    &["pause", "some-orders", "--reason", "r"],
    &["deploy", "plugin.wasm"],
    &["dlq", "retry", "some-orders", "--all"],
];

fn desk(home: &Home) -> Result<Desk> {
    let desk = Desk::new()?;
    desk.write("projector.toml", &configuration(&home.url()))?;
    std::fs::write(desk.path("plugin.wasm"), guest(ORDER_SEARCH))?;
    Ok(desk)
}

/// How many tables, indexes and the like there are beside the database's own.
async fn relations(home: &Home) -> Result<i64> {
    let Session::Postgres(mut session) = home.session().await? else { return Ok(0) };
    Ok(sqlx::query_scalar(
        "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')",
    )
    .fetch_one(&mut session)
    .await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_but_migrate_makes_tables_in_an_empty_database() -> Result<()> {
    let home = Home::postgres()?;
    let desk = desk(&home)?;
    for arguments in READING.iter().chain(&ASKING) {
        let output = desk.run(arguments)?;
        let said = all_said(&output);
        assert!(said.contains("no host has ever run on"), "projector {arguments:?}: {said}");
        assert!(said.contains("projector run"), "projector {arguments:?}: {said}");
        assert_eq!(relations(&home).await?, 0, "projector {arguments:?} made them");
    }
    Ok(())
}
