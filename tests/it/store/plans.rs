//! The host's own statements read what they are about, and not the tables through: on tables that are large, and
//! of which the server knows nothing, since nobody has analyzed them.

use std::collections::BTreeMap;

use anyhow::Result;
use projector_core::awaited::{AwaitedRow, RowId};
use projector_core::batch::BatchLimits;
use projector_core::counters::OutcomeCounts;
use projector_core::duplicate::{Duplicate, EventId, Remembered};
use projector_core::event::{Event, Position};
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_core::ordering::KeyId;
use projector_model::LookupCall;
use projector_store::dead_letters::DeadLetterFilter;
use projector_store::event_ids::Horizon;
use projector_store::operations::{DeadLetterAction, NewOperations};
use projector_store::release::{Release, WaitsOn};
use projector_store::{Advance, DeadLetter, Parked, Requester, Writes};
use serde_json::json;

use super::home::{Home, Session, wait_until};
use super::on_both_stores;
use super::projection::{Projection, call, contract, descriptor, partition, text};

on_both_stores!(tables_are_analyzed_on_request);

/// So many rows are in each table that can be large.
const ROWS: i64 = 20_000;
/// So many of them a batch asks for.
const BATCH: i64 = 200;

fn event(offset: i64) -> Event {
    Event {
        position: Position { partition: partition(), offset },
        topic: 0,
        timestamp_ms: None,
        key: Some(format!("k{offset}").into_bytes()),
        value: Some(b"v".to_vec()),
        also: Vec::new(),
        topic_name: "t".into(),
        oversize_bytes: None,
        headers: Vec::new(),
    }
}

/// The first half of a SHA-256, as `md5` in the database stands for it.
async fn md5(home: &Home, numbers: impl Iterator<Item = i64>) -> Result<Vec<[u8; 16]>> {
    let Session::Postgres(mut session) = home.session().await? else { unreachable!("only for Postgres") };
    let sql =
        "select decode(md5(n::text), 'hex') from unnest($1::int8[]) with ordinality as u(n, at) order by at";
    let found: Vec<Vec<u8>> =
        sqlx::query_scalar(sql).bind(numbers.collect::<Vec<_>>()).fetch_all(&mut session).await?;
    Ok(found.into_iter().map(|bytes| bytes.try_into().expect("16 bytes")).collect())
}

/// Customers, found by their country, which is the same for `BATCH` of them.
fn customers() -> serde_json::Value {
    descriptor(
        json!([{"name": "customer", "key": ["id"], "indexes": [{"columns": ["country"]}], "columns": [
            {"name": "id", "type": "text"}, {"name": "country", "type": "text", "nullable": true}]}]),
        json!([{"name": "put", "table": "customer", "kind": "upsert", "set": [{"column": "country"}]}]),
        json!([{"name": "of-country", "table": "customer", "by": ["country"], "columns": ["id"], "limit": 2}]),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_the_host_reads_a_large_table_through() -> Result<()> {
    let home = Home::postgres()?;
    let projection = Projection::install(home.open().await?, contract(&customers())).await?;
    let (store, generation) = (projection.store.clone(), projection.deployment.generation.clone());
    let (id, schema) = (generation.id, &generation.schema);
    // The server analyzes none of them by itself.
    let tables = ["event_id", "duplicate", "parked", "dead_letter", "blocked_key", "operation", "outcome"];
    for table in
        tables.map(|table| format!("projector.{table}")).iter().chain([&format!("{schema}.customer")])
    {
        home.by_hand(&format!("alter table {table} set (autovacuum_enabled = false)"), "").await?;
    }
    let rows = format!("generate_series(1, {ROWS}) as n");
    for statement in [
        format!("insert into projector.event_id (generation_id, topic, id, recorded_at)
                 select {id}, 't', decode(md5(n::text), 'hex'), now() - n * interval '1 second' from {rows}"),
        format!("insert into projector.dead_letter (generation_id, topic, partition, \"offset\", key, headers, digest, kind, code, detail, died_at)
                 select {id}, 't', 1, n, 'k', '[]', 'd', 'rejected', 'no', 'no', now() - n * interval '1 second' from {rows}"),
        format!("insert into projector.blocked_key (generation_id, key_id, dead_letter_id)
                 select {id}, decode(md5(n::text), 'hex'), n from {rows}"),
        format!("insert into projector.parked (generation_id, key_id, topic, partition, \"offset\", headers, waits_for, awaited, wait_until_ms)
                 select {id}, decode(md5((n % 10000 + 1)::text), 'hex'), 't', 1, n, '[]', decode(md5(n::text), 'hex'), 'r', n + 9 from {rows}"),
        format!("insert into projector.operation (generation_id, action, asked_by, done_at, verdict)
                 select {id}, 'retry', 'somebody', now(), '{{}}' from {rows}"),
        format!("insert into projector.outcome (generation_id, topic, partition, outcome, code, events)
                 select {id}, 'other', n, 'ignored', 'no', 1 from {rows}"),
        format!("insert into {schema}.customer (id, country) select 'c' || n, 'l' || n / {BATCH} from {rows}"),
    ] {
        // Without the checks of foreign keys, which read rows as well.
        home.by_hand(&format!("set session_replication_role = replica; {statement}"), "").await?;
    }
    // A session of its own, which planned nothing when they were empty; and one that did.
    let before = rows_read(&home).await?;
    let batches = 3;
    let limits = BatchLimits { events: 100, bytes: 1 << 20 };
    for batch in 0..batches {
        let asked: Vec<EventId> = md5(&home, (0..BATCH).map(|n| n * 50 + 1))
            .await?
            .into_iter()
            .map(|hash| EventId { topic: "t".into(), hash })
            .collect();
        let keys = md5(&home, 1..=BATCH).await?.into_iter().map(KeyId).collect();
        let came = md5(&home, batch * BATCH + 1..=(batch + 1) * BATCH).await?;
        let mut tx = projection.begin().await?;
        assert_eq!(tx.known(&asked).await?.len(), asked.len());
        assert_eq!(tx.blocked(keys).await?.len(), BATCH as usize);
        let of_country = LookupCall { lookup: 0, arguments: vec![text("l7")] };
        assert_eq!(tx.read(&[of_country], usize::MAX).await?[0].iter().flatten().count(), 2);
        tx.failed_and_waiting().await?;
        let at = batch * 2;
        let (dead, parked) = (event(at), event(at + 1));
        let failure = Failure::new(FailureKind::Rejected, "no", "no");
        let free = KeyId([batch as u8; 16]);
        let own = (0..BATCH).map(|n| {
            let mut hash = [batch as u8; 16];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            let first = Position { partition: partition(), offset: at };
            Remembered { id: EventId { topic: "t".into(), hash }, first, recorded_at: None }
        });
        let changes: Vec<_> = (0..BATCH).map(|n| call(0, [text(&format!("c{n}")), text("l0")])).collect();
        let counts =
            OutcomeCounts { dead: BTreeMap::from([("no".into(), 1)]), parked: 1, ..OutcomeCounts::default() };
        tx.write(&Writes {
            advances: vec![Advance { partition: partition(), expected: at, next: at + 2, counts }],
            positions: vec![&dead.position],
            changes: vec![(0, &changes)],
            dead: vec![DeadLetter { event: &dead, failure: &failure, blocks: Some(free), moved_by: None }],
            parked: vec![Parked { event: &parked, key: free, row: None }],
            ids: own.collect(),
            duplicates: vec![Duplicate { position: &dead.position, first: None }],
            rows: came.into_iter().map(|row| (RowId(row), 5)).collect(),
            ..Writes::default()
        })
        .await?;
        assert!(tx.made_ready());
        tx.commit().await?;
        let mut tx = projection.begin().await?;
        let ready = tx.claim_ready(limits).await?;
        assert_eq!(ready.len(), limits.events);
        let row = AwaitedRow { id: RowId([9; 16]), name: "r".into(), until_ms: i64::MAX };
        // A few: for a hundred of them, to read a table of this size through is right.
        let waits_on = ready.iter().take(20).map(|ready| WaitsOn {
            id: ready.stored.id,
            key: ready.key,
            row: Some(&row),
        });
        let release = Release { waits_on: waits_on.collect(), frees: vec![free], ..Release::default() };
        tx.write(&Writes { release: Some(release), ..Writes::default() }).await?;
        tx.commit().await?;
        assert!(store.first_end(&generation).await?.is_some());
        assert_eq!(store.end_waits(&generation, 0).await?, 0);
        let letters =
            store.dead_letters(&DeadLetterFilter { most: 1, ..DeadLetterFilter::default() }).await?;
        let asked = NewOperations {
            action: DeadLetterAction::Retry,
            dead_letters: vec![letters[0].id],
            dry_run: false,
            requester: Requester::default(),
        };
        let operation = store.request(&asked).await?[&letters[0].id];
        assert!(projection.begin().await?.claim(operation, limits).await?.is_some());
        assert_eq!(store.withdraw(&[operation]).await?, [operation]);
        // Behind these no event waits.
        let lone = NewOperations { dead_letters: (15_001..=15_000 + BATCH).collect(), ..asked };
        let lone: Vec<i64> = store.request(&lone).await?.into_values().collect();
        let claimed = projection.begin().await?.claim_lone_dead_letters(&lone, limits).await?;
        assert_eq!(claimed.len(), limits.events);
        store.control_state().await?;
        home.by_hand("delete from projector.operation where done_at is null", "").await?;
        store.open_deployments().await?;
        store.expire(&generation, 86_400, &Requester::default()).await?;
        let horizon = Horizon { time: None, window_seconds: 100_000_000 };
        assert_eq!(store.forget_ids(&generation, "t", horizon, 10_000).await?, 0);
        store.operations(None, 10).await?;
    }
    drop(projection);
    // Sessions that end say what they read.
    store.close().await;
    let least = batches * BATCH;
    wait_until("the sessions have told", async || {
        Ok(rows_read(&home).await?["event_id"] - before["event_id"] >= least)
    })
    .await?;
    for (table, read) in rows_read(&home).await? {
        let read = read - before.get(&table).copied().unwrap_or_default();
        assert!(read < ROWS / 2, "{read} rows of {table} were read by {batches} batches of {BATCH} events");
    }
    Ok(())
}

/// Rows that were read of each table, whether by an index or by going through.
async fn rows_read(home: &Home) -> Result<BTreeMap<String, i64>> {
    let Session::Postgres(mut session) = home.session().await? else { unreachable!("only for Postgres") };
    let sql = "select relname::text, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables";
    let rows: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(&mut session).await?;
    Ok(rows.into_iter().collect())
}

/// So that readers' first queries of what was built are planned for what is there.
async fn tables_are_analyzed_on_request(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&customers())).await?;
    let changes: Vec<Vec<_>> = (0..50).map(|n| vec![call(0, [text(&format!("c{n}")), text("l")])]).collect();
    projection.write(&changes).await?;
    projection.store.analyze(&projection.deployment.generation).await?;
    let analyzed: i64 = match home.session().await? {
        Session::Postgres(mut session) => {
            let sql = "select reltuples::int8 from pg_class where relname = 'customer' and relkind = 'r'";
            sqlx::query_scalar(sql).fetch_one(&mut session).await?
        }
        Session::Sqlite(mut session) => {
            let sql = "select max(cast(stat as integer)) from sqlite_stat1 where tbl like '%customer'";
            sqlx::query_scalar(sql).fetch_one(&mut session).await?
        }
    };
    assert_eq!(analyzed, 50);
    Ok(())
}
