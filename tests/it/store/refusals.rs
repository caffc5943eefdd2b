//! What a batch may be refused for: an event's own changes, or a value that the database does not
//! take. Nothing of such a batch is written.

use std::fmt::Write as _;

use anyhow::Result;
use projector_model::change::codes;
use projector_model::{Change, Value};
use projector_store::StoreError;
use serde_json::{Value as Json, json};

use super::home::Home;
use super::projection::{Projection, call, contract, descriptor, numeric, text};
use super::{on_both_stores, rows};

on_both_stores!(
    an_update_or_delete_that_may_not_miss_names_its_event,
    a_sum_beyond_its_column_names_its_event,
    a_sum_of_several_events_is_refused_as_a_whole,
    a_constraint_that_was_added_by_hand_refuses_the_batch,
    a_trigger_that_was_added_by_hand_refuses_the_batch,
);

fn accounts() -> Json {
    descriptor(
        json!([{"name": "account", "key": ["id"], "indexes": [{"columns": ["owner"]}], "columns": [
            {"name": "id", "type": "int64"}, {"name": "owner", "type": "text", "nullable": true},
            {"name": "n", "type": "int64", "nullable": true}, {"name": "cents", "type": "decimal(5,2)", "nullable": true}]}]),
        json!([
            {"name": "count", "table": "account", "kind": "upsert", "set": [{"column": "n", "operation": "add"}]},
            {"name": "pay", "table": "account", "kind": "upsert", "set": [{"column": "cents", "operation": "add"}]},
            {"name": "own", "table": "account", "kind": "upsert", "set": [{"column": "owner"}]},
            {"name": "set", "table": "account", "kind": "update", "by": ["id"], "set": [{"column": "n"}], "on-miss": "reject"},
            {"name": "set-all", "table": "account", "kind": "update", "by": ["owner"], "set": [{"column": "n"}], "on-miss": "reject"},
            {"name": "close", "table": "account", "kind": "delete", "by": ["id"], "on-miss": "reject"},
        ]),
        json!([]),
    )
}

const COUNT: u16 = 0;
const PAY: u16 = 1;
const OWN: u16 = 2;
const SET: u16 = 3;
const SET_ALL: u16 = 4;
const CLOSE: u16 = 5;

fn pay(id: i64, cents: &str) -> Change {
    call(PAY, [Value::Int64(id), Value::Decimal(cents.parse().expect(cents))])
}

fn own(id: i64, owner: &str) -> Change {
    call(OWN, [Value::Int64(id), text(owner)])
}

fn set_all(owner: &str, n: i64) -> Change {
    call(SET_ALL, [text(owner), Value::Int64(n)])
}

/// A batch that is refused: nothing of it may be left.
async fn refused(home: &Home, projection: &Projection, events: &[Vec<Change>]) -> Result<StoreError> {
    let state = async || -> Result<_> {
        let rows =
            rows::of_store(home, &projection.deployment.contract, &projection.deployment.generation).await?;
        Ok((rows, serde_json::to_value(projection.overview().await?)?))
    };
    let before = state().await?;
    let error = projection.write(events).await.expect_err("it is refused");
    assert_eq!(state().await?, before);
    Ok(error)
}

async fn an_update_or_delete_that_may_not_miss_names_its_event(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&accounts())).await?;
    projection.write(&[vec![own(1, "eve"), own(2, "eve")]]).await?;
    let hit = [
        vec![numeric(SET, &[1, 5])],
        vec![set_all("eve", 6)],
        vec![own(3, "bob"), set_all("bob", 7)],
        vec![numeric(CLOSE, &[2])],
        vec![numeric(SET, &[1, 8])],
    ];
    projection.write(&hit).await?;
    for (missing, detail) in [
        (numeric(SET, &[2, 5]), "set: no row of account with id = 2"),
        (set_all("nobody", 5), "set-all: no row of account with owner = \"nobody\""),
        (numeric(CLOSE, &[2]), "close: no row of account with id = 2"),
    ] {
        let events =
            [vec![numeric(SET, &[1, 9])], vec![set_all("eve", 1), missing], vec![numeric(SET, &[3, 9])]];
        match refused(&home, &projection, &events).await? {
            StoreError::Rejected { event, rejection } => {
                assert_eq!(
                    (event, rejection.code.as_str(), rejection.detail.as_str()),
                    (1, codes::MISSED, detail)
                );
            }
            other => panic!("{other:?}"),
        }
    }
    // The second of two deletes finds nothing any more.
    let twice =
        refused(&home, &projection, &[vec![numeric(CLOSE, &[3])], vec![numeric(CLOSE, &[3])]]).await?;
    assert!(matches!(twice, StoreError::Rejected { event: 1, .. }), "{twice:?}");
    Ok(())
}

async fn a_sum_beyond_its_column_names_its_event(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&accounts())).await?;
    let (most, least) = (numeric(COUNT, &[1, i64::MAX]), numeric(COUNT, &[2, i64::MIN]));
    projection.write(&[vec![most, least], vec![pay(1, "999.99"), pay(2, "-999.99")]]).await?;
    for change in [numeric(COUNT, &[1, 1]), numeric(COUNT, &[2, -1]), pay(1, "0.01"), pay(2, "-0.01")] {
        let events = [vec![own(9, "somebody")], vec![change.clone()]];
        match refused(&home, &projection, &events).await? {
            StoreError::Rejected { event, rejection } => {
                assert_eq!((event, rejection.code.as_str()), (1, codes::OVERFLOW), "{change:?}");
            }
            other => panic!("{change:?}: {other:?}"),
        }
    }
    // Up to the edge and back is in order.
    projection
        .write(&[vec![numeric(COUNT, &[1, -5]), numeric(COUNT, &[1, 5])], vec![pay(1, "-1"), pay(1, "1")]])
        .await?;
    Ok(())
}

async fn a_sum_of_several_events_is_refused_as_a_whole(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&accounts())).await?;
    projection.write(&[vec![pay(1, "900")]]).await?;
    let events = [vec![pay(1, "60")], vec![pay(1, "39.99")], vec![pay(1, "0.01")], vec![pay(2, "1")]];
    let error = refused(&home, &projection, &events).await?;
    match home {
        // The pipeline halves the batch until it is one event.
        Home::Postgres { .. } => assert!(matches!(error, StoreError::Data(_)), "{error:?}"),
        Home::Sqlite { .. } => assert!(matches!(error, StoreError::Rejected { event: 2, .. }), "{error:?}"),
    }
    projection.write(&events[..2]).await?;
    let error = refused(&home, &projection, &events[2..3]).await?;
    assert!(matches!(error, StoreError::Rejected { event: 0, .. }), "{error:?}");
    Ok(())
}

async fn a_constraint_that_was_added_by_hand_refuses_the_batch(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&accounts())).await?;
    home.by_hand(
        "create unique index on some_orders_g1.account (owner)",
        "create unique index by_hand on some_orders_g1__account (owner)",
    )
    .await?;
    projection.write(&[vec![own(1, "eve")]]).await?;
    let error = refused(&home, &projection, &[vec![own(2, "bob")], vec![own(3, "eve")]]).await?;
    assert!(matches!(error, StoreError::Data(_)), "{error:?}");
    projection.write(&[vec![own(2, "bob")]]).await?;
    Ok(())
}

async fn a_trigger_that_was_added_by_hand_refuses_the_batch(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&accounts())).await?;
    home.by_hand(
        "create function no_eve() returns trigger language plpgsql as
           $$ begin if new.owner = 'eve' then raise exception 'no eve'; end if; return new; end $$;
         create trigger no_eve before insert or update on some_orders_g1.account for each row execute function no_eve()",
        "create trigger no_eve before insert on some_orders_g1__account when new.owner = 'eve'
           begin select raise(abort, 'no eve'); end",
    )
    .await?;
    let error = refused(&home, &projection, &[vec![own(2, "bob")], vec![own(3, "eve")]]).await?;
    assert!(matches!(error, StoreError::Data(_)), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_too_long_for_an_index_is_no_reason_to_try_again_on_postgres() -> Result<()> {
    let home = Home::postgres()?;
    let projection = Projection::install(home.open().await?, contract(&accounts())).await?;
    // Postgres compresses; this does not compress well.
    let mut state = 1_u64;
    let mut long = |length: usize| {
        (0..length).fold(String::new(), |mut text, _| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let _ = write!(text, "{:x}", state >> 60);
            text
        })
    };
    // Of an entry that does not even fit into a page, Postgres does not say which index it is for.
    for (length, columns, column) in [(7_000, "owner", Some("owner")), (20_000, "id or owner", None)] {
        let error = refused(&home, &projection, &[vec![own(1, &long(length))]]).await?;
        let StoreError::Data(refusal) = &error else { panic!("{error:?}") };
        assert_eq!(refusal.table.as_deref(), Some("account"), "{error}");
        assert_eq!(refusal.column.as_deref(), column, "{error}");
        let said = error.to_string();
        let begin = format!("account: a value of {columns} is too long for the index account__");
        assert!(said.contains(&begin), "{said}");
        assert!(!said.contains("at line"), "Postgres' own source is named: {said}");
    }
    Ok(())
}
