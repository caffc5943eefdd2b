//! Lineage: in a table that declares it, every stored row names the event that wrote it last, and the
//! plugin. Readers and plugins do not see it.

use anyhow::Result;
use projector_model::{Change, LookupCall, Value};
use serde_json::{Value as Json, json};
use sqlx::{AssertSqlSafe, Column as _, Row as _};

use super::home::{Home, Session};
use super::projection::{Projection, call, contract, descriptor, numeric, offer, text};
use super::{on_both_stores, rows};

on_both_stores!(
    of_several_events_the_last_one_is_named,
    what_writes_nothing_leaves_the_lineage_as_it_was,
    an_upsert_that_keeps_everything_has_written,
    a_guard_decides_who_was_last,
    a_tombstone_names_its_delete,
    an_update_by_other_columns_is_named_by_every_row_that_it_reached,
    statements_that_write_one_row_are_named_in_their_order,
    rows_that_are_not_written_again_name_the_old_plugin,
    readers_and_lookups_do_not_see_it,
    a_table_without_lineage_has_no_such_columns,
);

fn items() -> Json {
    let column = |name: &str, ty: &str| json!({"name": name, "type": ty, "nullable": true});
    let id = json!({"name": "id", "type": "int64"});
    descriptor(
        json!([
            {"name": "item", "key": ["id"], "indexes": [{"columns": ["shelf"]}], "lineage": true,
             "columns": [id, column("shelf", "text"), column("n", "int64")]},
            {"name": "versioned", "key": ["id"], "lineage": true, "columns": [id, column("n", "int64"), column("v", "int64")]},
            {"name": "plain", "key": ["id"], "columns": [id]},
        ]),
        json!([
            {"name": "put", "table": "item", "kind": "upsert", "set": [{"column": "shelf"}, {"column": "n"}]},
            {"name": "once", "table": "item", "kind": "insert-once", "set": [{"column": "shelf"}]},
            {"name": "add", "table": "item", "kind": "upsert", "set": [{"column": "n", "operation": "add"}]},
            {"name": "touch", "table": "item", "kind": "upsert", "set": [{"column": "n", "operation": "keep"}]},
            {"name": "of-shelf", "table": "item", "kind": "update", "by": ["shelf"], "set": [{"column": "n"}]},
            {"name": "remove", "table": "item", "kind": "delete", "by": ["id"]},
            {"name": "version", "table": "versioned", "kind": "upsert", "set": [{"column": "n"}, {"column": "v"}], "guard": "v"},
            {"name": "bury", "table": "versioned", "kind": "delete", "by": ["id"], "guard": "v"},
            {"name": "unversioned", "table": "versioned", "kind": "insert-once", "set": [{"column": "n"}]},
            {"name": "note", "table": "plain", "kind": "upsert", "set": []},
        ]),
        json!([{"name": "item", "table": "item", "by": ["id"], "columns": ["n"]}]),
    )
}

const ONCE: u16 = 1;
const ADD: u16 = 2;
const TOUCH: u16 = 3;
const REMOVE: u16 = 5;
const VERSION: u16 = 6;
const BURY: u16 = 7;
const UNVERSIONED: u16 = 8;
const NOTE: u16 = 9;

const ITEM: usize = 0;
const VERSIONED: usize = 1;

fn put(id: i64, shelf: &str, n: i64) -> Change {
    call(0, [Value::Int64(id), text(shelf), Value::Int64(n)])
}

fn once(id: i64, shelf: &str) -> Change {
    call(ONCE, [Value::Int64(id), text(shelf)])
}

fn of_shelf(shelf: &str, n: i64) -> Change {
    call(4, [text(shelf), Value::Int64(n)])
}

async fn installed(home: &Home) -> Result<Projection> {
    Projection::install(home.open().await?, contract(&items())).await
}

/// `(id, offset)` of a table's stored rows, all of which this plugin wrote from `t/0`.
async fn offsets(home: &Home, projection: &Projection, table: usize) -> Result<Vec<(i64, i64)>> {
    let deployment = &projection.deployment;
    let dump = rows::of_store(home, &deployment.contract, &deployment.generation).await?;
    let by = format!(" by {}", deployment.digest);
    let row = |row: &rows::Row| {
        let lineage = row.lineage.as_deref().unwrap_or_default();
        let offset = lineage.strip_prefix("t/0@").and_then(|rest| rest.strip_suffix(&by));
        let id = row.values[0].as_deref().unwrap_or_default();
        match (id.parse(), offset.map(str::parse)) {
            (Ok(id), Some(Ok(offset))) => (id, offset),
            _ => panic!("{row:?}"),
        }
    };
    Ok(dump[table].stored.iter().map(row).collect())
}

/// Events of one batch, a change each.
async fn write(projection: &Projection, changes: impl IntoIterator<Item = Change>) -> Result<()> {
    let events: Vec<Vec<Change>> = changes.into_iter().map(|change| vec![change]).collect();
    Ok(projection.write(&events).await?)
}

async fn of_several_events_the_last_one_is_named(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    write(&projection, [put(1, "a", 1), put(2, "a", 1), put(1, "b", 2), numeric(ADD, &[2, 5])]).await?;
    assert_eq!(offsets(&home, &projection, ITEM).await?, [(1, 2), (2, 3)]);
    // Gone, and there again; the other one is written to by the second of two that fold.
    let again = [numeric(REMOVE, &[1]), put(1, "c", 3), numeric(ADD, &[2, 5]), numeric(ADD, &[2, 6])];
    write(&projection, again).await?;
    assert_eq!(offsets(&home, &projection, ITEM).await?, [(1, 5), (2, 7)]);
    Ok(())
}

async fn what_writes_nothing_leaves_the_lineage_as_it_was(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    write(&projection, [once(1, "a"), once(1, "b"), numeric(UNVERSIONED, &[7, 1])]).await?;
    let nothing = [once(1, "c"), of_shelf("b", 9), numeric(REMOVE, &[5]), numeric(UNVERSIONED, &[7, 2])];
    write(&projection, nothing).await?;
    assert_eq!(offsets(&home, &projection, ITEM).await?, [(1, 0)]);
    assert_eq!(offsets(&home, &projection, VERSIONED).await?, [(7, 2)]);
    Ok(())
}

async fn an_upsert_that_keeps_everything_has_written(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    write(&projection, [put(1, "a", 1)]).await?;
    write(&projection, [numeric(TOUCH, &[1, 5])]).await?;
    assert_eq!(offsets(&home, &projection, ITEM).await?, [(1, 1)]);
    Ok(())
}

async fn a_guard_decides_who_was_last(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    // In one batch: the highest, and of equals the last.
    let versions = [[1, 10, 5], [1, 20, 7], [1, 30, 7], [1, 40, 6]];
    write(&projection, versions.map(|version| numeric(VERSION, &version))).await?;
    assert_eq!(offsets(&home, &projection, VERSIONED).await?, [(1, 2)]);
    write(&projection, [[1, 50, 6], [1, 60, 5]].map(|version| numeric(VERSION, &version))).await?;
    assert_eq!(offsets(&home, &projection, VERSIONED).await?, [(1, 2)]);
    write(&projection, [numeric(VERSION, &[1, 70, 7])]).await?;
    assert_eq!(offsets(&home, &projection, VERSIONED).await?, [(1, 6)]);
    Ok(())
}

async fn a_tombstone_names_its_delete(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    write(&projection, [numeric(VERSION, &[1, 10, 5]), numeric(BURY, &[1, 6]), numeric(BURY, &[2, 3])])
        .await?;
    assert_eq!(offsets(&home, &projection, VERSIONED).await?, [(1, 1), (2, 2)]);
    // Too late; late for one; and a row again.
    write(&projection, [numeric(VERSION, &[1, 20, 5]), numeric(BURY, &[1, 4])]).await?;
    assert_eq!(offsets(&home, &projection, VERSIONED).await?, [(1, 1), (2, 2)]);
    write(&projection, [numeric(BURY, &[1, 7]), numeric(UNVERSIONED, &[2, 1])]).await?;
    assert_eq!(offsets(&home, &projection, VERSIONED).await?, [(1, 5), (2, 6)]);
    Ok(())
}

async fn an_update_by_other_columns_is_named_by_every_row_that_it_reached(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    write(&projection, [put(1, "a", 1), put(2, "b", 1), put(3, "a", 1)]).await?;
    // The stored rows of the shelf, and the pending ones: one came before it, one after it.
    write(&projection, [put(4, "a", 1), put(1, "b", 1), of_shelf("a", 9), put(5, "a", 1)]).await?;
    assert_eq!(offsets(&home, &projection, ITEM).await?, [(1, 4), (2, 1), (3, 5), (4, 5), (5, 6)]);
    Ok(())
}

async fn statements_that_write_one_row_are_named_in_their_order(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    write(&projection, [put(1, "a", 1), put(2, "a", 1), put(3, "a", 1)]).await?;
    // Without lineage, each statement would run once.
    let order = [
        numeric(TOUCH, &[1, 1]),
        numeric(ADD, &[1, 1]),
        numeric(TOUCH, &[1, 1]),
        numeric(ADD, &[2, 1]),
        numeric(TOUCH, &[2, 1]),
        numeric(ADD, &[2, 1]),
    ];
    write(&projection, order).await?;
    assert_eq!(offsets(&home, &projection, ITEM).await?, [(1, 5), (2, 8), (3, 2)]);
    Ok(())
}

async fn rows_that_are_not_written_again_name_the_old_plugin(home: Home) -> Result<()> {
    let mut projection = installed(&home).await?;
    write(&projection, [put(1, "a", 1), put(2, "a", 1)]).await?;
    let old = std::mem::replace(&mut projection.deployment.digest, "new".into());
    offer(&*projection.store, "new", &projection.deployment.contract).await?;
    write(&projection, [put(2, "a", 1), once(1, "b")]).await?;
    let deployment = &projection.deployment;
    let dump = rows::of_store(&home, &deployment.contract, &deployment.generation).await?;
    let lineage: Vec<_> = dump[ITEM].stored.iter().map(|row| row.lineage.as_deref()).collect();
    assert_eq!(lineage, [Some(format!("t/0@0 by {old}").as_str()), Some("t/0@2 by new")]);
    Ok(())
}

/// The columns of a table or view that has rows, by its name in either store.
async fn columns_of(home: &Home, postgres: &str, sqlite: &str) -> Result<Vec<String>> {
    let all = |from: &str| AssertSqlSafe(format!("select * from {from}"));
    Ok(match home.session().await? {
        Session::Postgres(mut session) => {
            let row = sqlx::query(all(postgres)).fetch_one(&mut session).await?;
            row.columns().iter().map(|column| column.name().to_owned()).collect()
        }
        Session::Sqlite(mut session) => {
            let row = sqlx::query(all(sqlite)).fetch_one(&mut session).await?;
            row.columns().iter().map(|column| column.name().to_owned()).collect()
        }
    })
}

async fn readers_and_lookups_do_not_see_it(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    write(&projection, [put(1, "a", 5)]).await?;
    let table = columns_of(&home, "some_orders_g1.item", "some_orders_g1__item").await?;
    assert_eq!(table, ["id", "shelf", "n", "_topic", "_partition", "_offset", "_digest"]);
    let view = columns_of(&home, "some_orders.item", "some_orders__item").await?;
    assert_eq!(view, ["id", "shelf", "n"]);
    let found = projection.read(&[LookupCall { lookup: 0, arguments: vec![Value::Int64(1)] }]).await?;
    assert_eq!(found, [[[Value::Int64(1), text("a"), Value::Int64(5)]]]);
    Ok(())
}

async fn a_table_without_lineage_has_no_such_columns(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    write(&projection, [numeric(NOTE, &[1])]).await?;
    assert_eq!(columns_of(&home, "some_orders_g1.plain", "some_orders_g1__plain").await?, ["id"]);
    Ok(())
}
