//! The host's own tables: only a host and `projector migrate` make or change them.

use std::borrow::Cow;

use anyhow::Result;
use projector_store::migrations::{POSTGRES, SQLITE};
use projector_store::schema::gate;
use projector_store::{self as store, StoreError};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use uuid::Uuid;

use super::commands::{Desk, all_said, configuration};
use super::home::{Home, Session};
use super::projection::{Projection, contract, numbers};
use super::{on_both_stores, settings};
use crate::harness::{ORDER_SEARCH, guest};

on_both_stores!(
    no_command_but_migrate_makes_tables_in_an_empty_database,
    a_database_of_an_older_version_is_told_and_stays_as_it_is,
    a_database_of_a_newer_version_is_used_unless_it_needs_a_newer_program,
);

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

/// On one line, without the frame of an error.
fn flat(output: &std::process::Output) -> String {
    all_said(output).replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Tables, columns and indexes beside the database's own. Of a SQLite file that does not exist: none.
async fn made(home: &Home) -> Result<Vec<String>> {
    if let Home::Sqlite { directory } = home
        && !directory.path().join("store.db").exists()
    {
        return Ok(Vec::new());
    }
    Ok(match home.session().await? {
        Session::Postgres(mut session) => {
            sqlx::query_scalar(
                "select c.relname || '.' || coalesce(a.attname, '') from pg_class c
                 join pg_namespace n on n.oid = c.relnamespace
                 left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
                 where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') order by 1",
            )
            .fetch_all(&mut session)
            .await?
        }
        Session::Sqlite(mut session) => {
            sqlx::query_scalar("select coalesce(sql, name) from sqlite_master order by 1")
                .fetch_all(&mut session)
                .await?
        }
    })
}

async fn no_command_but_migrate_makes_tables_in_an_empty_database(home: Home) -> Result<()> {
    let desk = desk(&home)?;
    for arguments in READING.iter().chain(&ASKING) {
        let output = desk.run(arguments)?;
        let said = flat(&output);
        // No broker answers `plan`, which asks how much is to be replayed.
        let is_plan = arguments[0] == "plan" && said.contains("Kafka");
        assert!(is_plan || said.contains("no host has ever run on"), "projector {arguments:?}: {said}");
        assert!(is_plan || said.contains("projector run"), "projector {arguments:?}: {said}");
        assert_eq!(made(&home).await?, [""; 0], "projector {arguments:?} made them");
    }
    let migrate = |arguments: &[&str]| -> Result<String> {
        let output = desk.run(&[&["migrate"], arguments].concat())?;
        assert!(output.status.success(), "{output:?}");
        Ok(flat(&output))
    };
    let said = migrate(&["--dry-run"])?;
    assert!(said.contains("no host has ever run here") && said.contains("0001 host"), "{said}");
    assert_eq!(made(&home).await?, [""; 0]);
    let said = migrate(&[])?;
    assert!(said.contains("now upgraded to version"), "{said}");
    assert!(made(&home).await?.len() > 20);
    assert!(migrate(&[])?.contains("nothing to do"));
    let said = flat(&desk.run(&["status"])?);
    assert!(said.contains("No projection was ever deployed"), "{said}");
    Ok(())
}

/// A database as a host of version 11 left it.
async fn made_by_version_11(home: &Home) -> Result<()> {
    let until_11 = |all: &Migrator| Migrator {
        migrations: Cow::Owned(all.iter().filter(|it| it.version <= 11).cloned().collect()),
        ..Migrator::DEFAULT
    };
    match home {
        Home::Postgres { url } => {
            let mut old = PgConnection::connect(url).await?;
            old.execute("create schema projector; set search_path to projector").await?;
            until_11(&POSTGRES).run_direct(None, &mut old, false).await?;
        }
        Home::Sqlite { directory } => {
            let options = SqliteConnectOptions::new().filename(directory.path().join("store.db"));
            let mut old = options.create_if_missing(true).connect().await?;
            until_11(&SQLITE).run_direct(None, &mut old, false).await?;
            let id = Uuid::new_v4();
            let store =
                format!("insert into projector_store (only_row, id, created_at) values (1, '{id}', 0)");
            old.execute(AssertSqlSafe(store)).await?;
        }
    }
    Ok(())
}

async fn a_database_of_an_older_version_is_told_and_stays_as_it_is(home: Home) -> Result<()> {
    made_by_version_11(&home).await?;
    let (desk, before) = (desk(&home)?, made(&home).await?);
    for arguments in READING.iter().chain(&ASKING) {
        let output = desk.run(arguments)?;
        let said = flat(&output);
        let words = ["at version 11", "projector migrate"];
        assert!(words.iter().all(|word| said.contains(word)), "projector {arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(2), "projector {arguments:?}: {said}");
        assert_eq!(made(&home).await?, before, "projector {arguments:?} changed them");
    }
    let output = desk.run(&["migrate", "--dry-run"])?;
    assert!(output.status.success() && flat(&output).contains("0016 upgrades"), "{output:?}");
    assert_eq!(made(&home).await?, before);
    assert!(desk.run(&["migrate"])?.status.success());
    // A host that starts finds nothing to do.
    assert_ne!(made(&home).await?, before);
    home.open().await?;
    Ok(())
}

async fn a_database_of_a_newer_version_is_used_unless_it_needs_a_newer_program(home: Home) -> Result<()> {
    let store = home.open().await?;
    Projection::install(store.clone(), contract(&numbers())).await?;
    store.close().await;
    drop(store);
    home.by_hand(
        "insert into projector._sqlx_migrations values (9999, 'from the future', now(), true, '\\x01', 0)",
        "insert into _sqlx_migrations values (9999, 'from the future', 0, true, x'01', 0)",
    )
    .await?;
    let desk = desk(&home)?;
    let said = flat(&desk.run(&["status"])?);
    assert!(said.contains("at version 9999") && said.contains("some-orders"), "{said}");
    assert!(desk.run(&["pause", "some-orders", "--reason", "r"])?.status.success());
    let store = home.open().await?;
    assert_eq!(store.schema().version, Some(9999));
    store.close().await;
    drop(store);
    // It took something away that this program uses.
    home.by_hand("update projector.store set needs = 9999", "update projector_store set needs = 9999")
        .await?;
    for arguments in [&["status"][..], &["pause", "some-orders", "--reason", "r"], &["migrate"]] {
        let output = desk.run(arguments)?;
        let said = flat(&output);
        assert!(output.status.code() == Some(2) && said.contains("newer version"), "{arguments:?}: {said}");
    }
    let refused = home.open().await.map(drop);
    assert!(matches!(&refused, Err(StoreError::Setup(_))), "{refused:?}");
    Ok(())
}

/// What takes something away waits for hosts that may need it, and keeps them from starting later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_takes_something_away_waits_for_hosts_of_older_versions() -> Result<()> {
    let home = Home::postgres()?;
    let store = home.open().await?;
    let known = store.schema().known;
    let Session::Postgres(mut session) = home.session().await? else { unreachable!("it is Postgres") };
    session.execute("insert into projector.host (id, name) values (gen_random_uuid(), 'old/1')").await?;
    let new = Uuid::new_v4();
    store.heartbeat(new, "new/1", &[]).await?;
    let hosts = store.live_hosts().await?;
    let told: Vec<_> = hosts.iter().map(|host| (&*host.name, host.knows)).collect();
    assert_eq!(told, [("new/1", known), ("old/1", 0)]);
    let waits = session.execute(AssertSqlSafe(gate(known))).await.expect_err("a host needs it");
    let waits = waits.as_database_error().map(|error| (error.code(), error.message().to_owned()));
    assert_eq!(waits, Some((Some("PRJ01".into()), "old/1".to_owned())));
    session
        .execute("update projector.host set seen_at = now() - interval '1 minute' where name = 'old/1'")
        .await?;
    session.execute(AssertSqlSafe(gate(known + 1))).await.expect_err("nor does the new one know that");
    session.execute(AssertSqlSafe(gate(known))).await?;
    store::open_to_read(&settings(&home.url())).await?;
    store.heartbeat(new, "new/1", &[]).await?;
    // One that was silent is not waited for; it is not let in again, and none starts.
    session.execute("update projector.host set seen_at = now() - interval '1 minute'").await?;
    session.execute(AssertSqlSafe(gate(known + 1))).await?;
    let refused = store.heartbeat(new, "new/1", &[]).await;
    assert!(matches!(&refused, Err(StoreError::Setup(_))), "{refused:?}");
    assert!(store::open_to_read(&settings(&home.url())).await.is_err());
    Ok(())
}
