//! Objects of other people are never dropped: what would go along with a generation is named, and the
//! generation stays.

use anyhow::{Context, Result};
use projector_core::deployment::Origin;
use projector_core::generation::{Generation, Role};
use projector_store::{Requester, Store, StoreError};
use serde_json::{Value as Json, json};
use sqlx::{AssertSqlSafe, Row};

use super::home::{Home, Session};
use super::on_both_stores;
use super::projection::{contract, numbers, offer};

on_both_stores!(
    a_generation_that_a_persons_view_reads_is_not_retired,
    a_projection_that_a_persons_view_reads_is_not_dropped,
    a_generation_that_is_built_is_not_given_up_over_a_persons_view,
    views_of_other_projections_and_of_the_live_generation_are_no_reason,
);

const NAME: &str = "some-orders";

fn revision(number: u32) -> Json {
    let mut json = numbers();
    json["revision"] = number.into();
    json
}

/// With another column instead of one: the views that readers know stay with the generation before.
fn other_columns() -> Json {
    let mut json = revision(2);
    json["tables"][0]["columns"][1]["name"] = "m".into();
    for statement in json["statements"].as_array_mut().expect("a list") {
        statement["set"][0]["column"] = "m".into();
    }
    json
}

async fn promote(store: &dyn Store, generation: &Generation) -> Result<()> {
    store.set_caught_up(generation).await?;
    store.promote(generation, &[], Origin::Command, &Requester::default()).await?;
    Ok(())
}

/// A live generation, 2, in views of its own, and the one before, with its views.
async fn two_generations(store: &dyn Store) -> Result<(Generation, Generation)> {
    let first = offer(store, "one", &contract(&numbers())).await?.generation;
    offer(store, "two", &contract(&other_columns())).await?;
    let generations = store.generations(NAME).await?;
    let second = generations.into_iter().find(|status| status.role == Role::Building);
    let second = second.context("it is built")?.generation;
    promote(store, &second).await?;
    Ok((first, second))
}

/// It was refused, and says all of this.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(refused: Result<T, StoreError>, words: &[&str]) {
    match refused {
        Err(StoreError::Refused(refusal)) => {
            let reason = refusal.to_string();
            for word in words {
                assert!(reason.contains(word), "{word:?} is not in: {reason}");
            }
        }
        other => panic!("{other:?}"),
    }
}

async fn numbers_of(store: &dyn Store) -> Result<Vec<i32>> {
    Ok(store.generations(NAME).await?.iter().map(|status| status.generation.number).collect())
}

/// The first cell of the first row.
async fn number(home: &Home, postgres: &str, sqlite: &str) -> Result<i64> {
    Ok(match home.session().await? {
        Session::Postgres(mut session) => {
            sqlx::query(AssertSqlSafe(postgres)).fetch_one(&mut session).await?.get(0)
        }
        Session::Sqlite(mut session) => {
            sqlx::query(AssertSqlSafe(sqlite)).fetch_one(&mut session).await?.get(0)
        }
    })
}

async fn a_generation_that_a_persons_view_reads_is_not_retired(home: Home) -> Result<()> {
    let store = home.open().await?;
    let (first, _) = two_generations(&*store).await?;
    home.by_hand(
        "create view report as select n from some_orders.number;
         create materialized view totals as select sum(n) from report",
        "create view report as select n from some_orders__number;
         create view totals as select sum(n) from report",
    )
    .await?;
    let refused = store.retire(&first, Origin::Command, &Requester::default()).await;
    assert_refused(
        refused,
        &["generation 1 of some-orders: nothing is removed", "report", "totals", "Drop them"],
    );
    assert_eq!(numbers_of(&*store).await?, [1, 2]);
    assert_eq!(number(&home, "select count(*) from report", "select count(*) from report").await?, 0);
    // Once they are gone, so may the generation.
    home.by_hand("drop materialized view totals; drop view report", "drop view totals; drop view report")
        .await?;
    store.retire(&first, Origin::Command, &Requester::default()).await?;
    assert_eq!(numbers_of(&*store).await?, [2]);
    let left = number(
        &home,
        "select count(*) from pg_namespace where nspname in ('some_orders', 'some_orders_g1')",
        "select count(*) from sqlite_master where name like 'some_orders\\_\\_%' escape '\\' or name like 'some_orders_g1%'",
    );
    assert_eq!(left.await?, 0);
    Ok(())
}

async fn a_projection_that_a_persons_view_reads_is_not_dropped(home: Home) -> Result<()> {
    let store = home.open().await?;
    two_generations(&*store).await?;
    home.by_hand(
        "create view report as select m from some_orders_v2.number",
        "create view report as select m from some_orders_v2__number",
    )
    .await?;
    assert_refused(store.drop_projection(NAME, &Requester::default()).await, &["generation 2", "report"]);
    assert_eq!(numbers_of(&*store).await?, [1, 2], "all or nothing");
    home.by_hand("drop view report", "drop view report").await?;
    store.drop_projection(NAME, &Requester::default()).await?;
    assert!(numbers_of(&*store).await?.is_empty());
    Ok(())
}

async fn a_generation_that_is_built_is_not_given_up_over_a_persons_view(home: Home) -> Result<()> {
    let store = home.open().await?;
    offer(&*store, "one", &contract(&numbers())).await?;
    offer(&*store, "two", &contract(&revision(2))).await?;
    home.by_hand(
        "create view peek as select n from some_orders_g2.number",
        "create view peek as select n from some_orders_g2__number",
    )
    .await?;
    assert_refused(offer(&*store, "three", &contract(&revision(3))).await, &["generation 2", "peek"]);
    assert_eq!(numbers_of(&*store).await?, [1, 2]);
    Ok(())
}

async fn views_of_other_projections_and_of_the_live_generation_are_no_reason(home: Home) -> Result<()> {
    let store = home.open().await?;
    let (first, _) = two_generations(&*store).await?;
    let mut other = numbers();
    other["name"] = "others".into();
    offer(&*store, "other", &contract(&other)).await?;
    home.by_hand(
        "create view report as select m from some_orders_v2.number union all select n from others.number",
        "create view report as select m from some_orders_v2__number union all select n from others__number",
    )
    .await?;
    store.retire(&first, Origin::Command, &Requester::default()).await?;
    assert_eq!(number(&home, "select count(*) from report", "select count(*) from report").await?, 0);
    Ok(())
}

/// Whatever a person may make in a schema, or have depend on a table.
#[tokio::test]
async fn every_kind_of_object_is_named_on_postgres() -> Result<()> {
    let home = Home::postgres()?;
    let store = home.open().await?;
    let (first, _) = two_generations(&*store).await?;
    for (make, unmake, named) in [
        (
            "create table some_orders_g1.mine (id int)",
            "drop table some_orders_g1.mine",
            "table some_orders_g1.mine",
        ),
        ("create table some_orders.mine (id int)", "drop table some_orders.mine", "table some_orders.mine"),
        ("create sequence some_orders.ids", "drop sequence some_orders.ids", "sequence some_orders.ids"),
        (
            "create type some_orders.mood as enum ('ok')",
            "drop type some_orders.mood",
            "type some_orders.mood",
        ),
        (
            "create function some_orders.f() returns int language sql as 'select 1'",
            "drop function some_orders.f()",
            "function some_orders.f()",
        ),
        (
            "create function public.g(some_orders.number) returns int language sql as 'select 1'",
            "drop function public.g(some_orders.number)",
            "function public.g(some_orders.number)",
        ),
        (
            "create table public.refers (id bigint references some_orders_g1.number)",
            "drop table public.refers",
            "table constraint refers_id_fkey on public.refers",
        ),
        (
            "create table public.child () inherits (some_orders_g1.number)",
            "drop table public.child",
            "table public.child",
        ),
        (
            "create table public.holds (rows some_orders_g1.number[])",
            "drop table public.holds",
            "public.holds",
        ),
    ] {
        home.by_hand(make, "").await?;
        assert_refused(store.retire(&first, Origin::Command, &Requester::default()).await, &[named]);
        home.by_hand(unmake, "").await?;
    }
    // What belongs to the host's own table goes with it.
    home.by_hand(
        "create index by_hand on some_orders_g1.number (n);
         create statistics some_orders_g1.stats on id, n from some_orders_g1.number;
         alter table some_orders_g1.number add constraint positive check (n > 0 or id > 0);
         create function public.t() returns trigger language plpgsql as 'begin return new; end';
         create trigger t before insert on some_orders_g1.number for each row when (new.n > 0) execute function t();
         comment on view some_orders.number is 'read me'",
        "",
    )
    .await?;
    store.retire(&first, Origin::Command, &Requester::default()).await?;
    assert_eq!(numbers_of(&*store).await?, [2]);
    Ok(())
}

/// Triggers and foreign keys go along with a table in SQLite, or break, without a word.
#[tokio::test]
async fn triggers_and_foreign_keys_are_named_on_sqlite() -> Result<()> {
    let home = Home::sqlite()?;
    let store = home.open().await?;
    let (first, _) = two_generations(&*store).await?;
    home.by_hand("", "create table mine (id integer, n integer)").await?;
    for (make, unmake, named) in [
        (
            "create trigger t after insert on some_orders_g1__number begin insert into mine values (new.id, 1); end",
            "drop trigger t",
            "trigger t on some_orders_g1__number",
        ),
        (
            "create trigger u after update of n on mine begin delete from some_orders_g1__number; end",
            "drop trigger u",
            "trigger u",
        ),
        (
            "create table refers (id integer references some_orders_g1__number on delete cascade)",
            "drop table refers",
            "table refers",
        ),
        (
            "create trigger v instead of insert on some_orders__number begin insert into mine values (1, 1); end",
            "drop trigger v",
            "trigger v on some_orders__number",
        ),
    ] {
        home.by_hand("", make).await?;
        assert_refused(store.retire(&first, Origin::Command, &Requester::default()).await, &[named]);
        home.by_hand("", unmake).await?;
    }
    // One that was broken before, and reads nothing of ours, is no reason.
    home.by_hand("", "create view broken as select * from nowhere").await?;
    store.retire(&first, Origin::Command, &Requester::default()).await?;
    Ok(())
}

/// What a person added to a table in use, by the name that a version adds.
#[tokio::test]
async fn a_persons_column_or_table_is_not_taken_for_one_that_was_left_on_postgres() -> Result<()> {
    let home = Home::postgres()?;
    let store = home.open().await?;
    offer(&*store, "one", &contract(&numbers())).await?;
    home.by_hand(
        "alter table some_orders_g1.number add column note text;
         insert into some_orders_g1.number values (1, 1, 'mine')",
        "",
    )
    .await?;
    let mut more = numbers();
    let note = json!({"name": "note", "type": "text", "nullable": true});
    more["tables"][0]["columns"].as_array_mut().expect("a list").push(note);
    let refused = offer(&*store, "two", &contract(&more)).await;
    assert_refused(refused, &["the column note of some_orders_g1.number exists already"]);
    home.by_hand(
        "alter table some_orders_g1.number drop column note; create table some_orders_g1.other (id bigint)",
        "",
    )
    .await?;
    let mut more = numbers();
    let other = json!({"name": "other", "key": ["id"], "columns": [{"name": "id", "type": "int64"}]});
    more["tables"].as_array_mut().expect("a list").push(other);
    let refused = offer(&*store, "three", &contract(&more)).await;
    assert_refused(refused, &["some_orders_g1.other exists already"]);
    assert_eq!(number(&home, "select count(*) from some_orders_g1.other", "").await?, 0);
    Ok(())
}

/// A view that stands where the host is to make one.
#[tokio::test]
async fn a_persons_view_is_not_replaced_on_sqlite() -> Result<()> {
    let home = Home::sqlite()?;
    let store = home.open().await?;
    home.by_hand("", "create view some_orders__number as select 7 as n").await?;
    assert_refused(offer(&*store, "one", &contract(&numbers())).await, &["already"]);
    assert_eq!(number(&home, "", "select n from some_orders__number").await?, 7);
    Ok(())
}
