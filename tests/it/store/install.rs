//! Installing: once, all or nothing, never backwards, and never over rows of another shape.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use projector_config as config;
use projector_core::failure::{Blocker, FailureKind};
use projector_core::generation::Role;
use projector_core::refusal::Refusal;
use projector_store::{self as store, Store, StoreError};
use serde_json::{Value as Json, json};
use sqlx::Executor;

use super::home::{Home, Session};
use super::projection::{BYTES, PUT, Projection, contract, descriptor, numbers, numeric, offer};
use super::{on_both_stores, settings};

on_both_stores!(
    offering_a_component_again_changes_nothing,
    a_new_component_of_the_same_layout_becomes_the_active_one_and_an_older_one_never_again,
    another_layout_is_built_beside_the_live_one_which_goes_on,
    a_schema_that_somebody_else_made_is_not_taken_over,
    tables_may_be_named_like_the_indexes_of_others,
    a_store_keeps_its_identity,
);

fn with(mut descriptor: Json, change: impl FnOnce(&mut Json)) -> Json {
    change(&mut descriptor);
    descriptor
}

async fn offering_a_component_again_changes_nothing(home: Home) -> Result<()> {
    let store = home.open().await?;
    let projection = Projection::install(store.clone(), contract(&numbers())).await?;
    projection.write(&[vec![numeric(PUT, &[1, 2])]]).await?;
    let before = serde_json::to_value(projection.overview().await?)?;
    let installed = offer(&*store, &projection.deployment.digest, &projection.deployment.contract).await?;
    assert_eq!(installed.generation, projection.deployment.generation);
    assert_eq!(installed.active, *projection.deployment.digest);
    assert_eq!(serde_json::to_value(projection.overview().await?)?, before);
    let stored = store.component(&projection.deployment.digest).await?.map(|stored| stored.bytes);
    assert_eq!(stored.as_deref(), Some(BYTES));
    assert_eq!(store.component("another").await?, None);
    Ok(())
}

async fn a_new_component_of_the_same_layout_becomes_the_active_one_and_an_older_one_never_again(
    home: Home,
) -> Result<()> {
    let store = home.open().await?;
    let first = contract(&numbers());
    let second = contract(&with(numbers(), |json| json["version"] = "1.1".into()));
    let generation = offer(&*store, "one", &first).await?.generation;
    store.set_blocked(&generation, Some(&Blocker::new(FailureKind::Drift, "a bug of version 1.0"))).await?;
    let installed = offer(&*store, "two", &second).await?;
    assert_eq!((installed.generation, installed.active.as_str()), (generation, "two"));
    assert_eq!(offer(&*store, "one", &first).await?.active, "two");
    let overview = store.overview().await?;
    assert_eq!(overview.len(), 1);
    assert_eq!((overview[0].active.version.as_str(), overview[0].active.digest.as_str()), ("1.1", "two"));
    assert_eq!(overview[0].blocker, None, "the old component's blocker is gone");
    Ok(())
}

async fn another_layout_is_built_beside_the_live_one_which_goes_on(home: Home) -> Result<()> {
    let store = home.open().await?;
    let guarded = json!({"name": "drop", "table": "number", "kind": "delete", "by": ["id"], "guard": "n"});
    let projection = Projection::install(store.clone(), contract(&numbers())).await?;
    let others = [
        with(numbers(), |json| json["tables"][0]["columns"][1]["type"] = "decimal(9,2)".into()),
        with(numbers(), |json| json["topics"][0]["name"] = "u".into()),
        with(numbers(), |json| json["revision"] = 2.into()),
        with(numbers(), |json| json["topics"][0]["ordering-group"] = "numbers".into()),
        with(numbers(), |json| json["tables"][0]["lineage"] = true.into()),
        // The table has no room for the tombstones that this leaves.
        with(numbers(), |json| json["statements"][1] = guarded.clone())
            .as_object_mut()
            .map(|json| {
                json["topics"][0]["statements"] = json!(["put", "drop"]);
                Json::Object(json.clone())
            })
            .unwrap_or_default(),
    ];
    for (at, other) in others.iter().enumerate() {
        let digest = format!("other {at}");
        let installed = offer(&*store, &digest, &contract(other)).await?;
        let generations = store.generations("some-orders").await?;
        let roles: Vec<_> = generations
            .iter()
            .map(|status| (status.generation.number, status.role, &*status.active))
            .collect();
        // The one before is given up, and its number is not given twice.
        let number = at as i32 + 2;
        assert_eq!(
            roles,
            [(1, Role::Live, &*projection.deployment.digest), (number, Role::Building, &*digest)]
        );
        assert_eq!(installed.generation, generations[1].generation, "{other}");
    }
    projection.write(&[vec![numeric(PUT, &[1, 2])]]).await?;
    let overview = store.overview().await?;
    assert_eq!(overview.len(), 2);
    assert_eq!(overview[0].active.digest, *projection.deployment.digest);
    Ok(())
}

async fn a_schema_that_somebody_else_made_is_not_taken_over(home: Home) -> Result<()> {
    let store = home.open().await?;
    home.by_hand(
        "create schema some_orders create table mine (mine text)",
        "create table some_orders__number (mine text)",
    )
    .await?;
    let refused = offer(&*store, "one", &contract(&numbers())).await;
    assert!(matches!(refused, Err(StoreError::Refused(Refusal::ForeignHome { .. }))), "{refused:?}");
    assert!(store.overview().await?.is_empty(), "all or nothing");
    home.by_hand("drop schema some_orders cascade", "drop table some_orders__number").await?;
    Projection::install(store, contract(&numbers())).await?;
    Ok(())
}

async fn tables_may_be_named_like_the_indexes_of_others(home: Home) -> Result<()> {
    let table = |name: &str| json!({"name": name, "key": ["id"], "columns": [{"name": "id", "type": "int64"}], "indexes": [{"columns": ["id"]}]});
    let long = "x".repeat(62);
    let names = ["a", "a_1", "a_pkey", "a_1_1", &format!("{long}y"), &format!("{long}z")];
    let tables = names.map(table);
    let contract = contract(&descriptor(json!(tables), json!([]), json!([])));
    Projection::install(home.open().await?, contract).await?;
    Ok(())
}

async fn a_store_keeps_its_identity(home: Home) -> Result<()> {
    let store = home.open().await?;
    let id = store.id();
    store.close().await;
    drop(store);
    assert_eq!(home.open().await?.id(), id);
    assert_eq!(store::open_to_read(&settings(&home.url())).await?.id(), id);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_start_together_agree_on_postgres() -> Result<()> {
    let home = Home::postgres()?;
    let (a, b) = tokio::join!(home.open(), home.open());
    let stores: [Arc<dyn Store>; 2] = [a?, b?];
    assert_eq!(stores[0].id(), stores[1].id());

    let contract = contract(&numbers());
    let (a, b) = tokio::join!(offer(&*stores[0], "one", &contract), offer(&*stores[1], "one", &contract));
    assert_eq!(a?, b?);
    let (a, b) = tokio::join!(offer(&*stores[0], "two", &contract), offer(&*stores[1], "three", &contract));
    let last = stores[0].overview().await?[0].active.digest.clone();
    // Whoever asks while another one is not decided, has that one withdrawn.
    assert!([a?.active, b?.active].contains(&last));
    for digest in ["one", &last] {
        assert_eq!(offer(&*stores[1], digest, &contract).await?.active, last);
    }
    Ok(())
}

#[tokio::test]
async fn a_second_host_is_kept_from_a_sqlite_file_but_may_look() -> Result<()> {
    let home = Home::sqlite()?;
    let store = home.open().await?;
    let projection = Projection::install(store, contract(&numbers())).await?;
    // It passes with that host.
    assert!(matches!(home.open().await, Err(StoreError::Unavailable(_))));
    projection.write(&[vec![numeric(PUT, &[1, 2])]]).await?;
    let reader = store::open_to_read(&settings(&home.url())).await?;
    assert_eq!(reader.overview().await?[0].partitions[0].counters.applied, 1);
    Ok(())
}

/// Whoever looks at a database while it is brought up to date may be in the way: that passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_waits_for_a_lock_in_vain_is_tried_again_on_postgres() -> Result<()> {
    let home = Home::postgres()?;
    let Session::Postgres(mut other) = home.session().await? else { unreachable!("it is Postgres") };
    for sql in ["create schema projector", "begin", "create table projector.store (in_the_way int)"] {
        other.execute(sql).await?;
    }
    let impatient = config::Store { lock_timeout: Duration::from_millis(100), ..settings(&home.url()) };
    let refused = store::open(&impatient).await.map(drop);
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    other.execute("rollback").await?;
    store::open(&impatient).await?;
    Ok(())
}
