//! Generations: what fits in place, what is given back, and what readers may be shown.

use std::time::Duration;

use anyhow::{Context, Result};
use projector_core::checkpoint::{Beginning, Offsets};
use projector_core::deployment::Origin;
use projector_core::generation::{GenerationStatus, Role};
use projector_core::refusal::Refusal;
use projector_store::{Requester, Store, StoreError, WriteBarrier};
use serde_json::{Value as Json, json};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::home::{Home, Session};
use super::on_both_stores;
use super::projection::{Projection, contract, numbers, offer, partition, proposal};

on_both_stores!(
    a_reverted_column_is_no_reason_to_build_rows_anew,
    whoever_deploys_the_active_version_withdraws_what_was_asked_for,
    readers_see_no_tombstone_of_a_generation_that_has_others,
    a_generation_that_is_behind_or_not_caught_up_is_not_shown,
    a_write_barrier_belongs_to_its_owner_and_ends_by_itself,
);

const NAME: &str = "some-orders";

fn with(change: impl FnOnce(&mut Json)) -> Json {
    let mut json = numbers();
    change(&mut json);
    json
}

fn with_note(ty: &str) -> Json {
    let note = json!({"name": "note", "type": ty, "nullable": true});
    with(|json| json["tables"][0]["columns"].as_array_mut().expect("a list").push(note))
}

async fn status(store: &dyn Store, role: Role) -> Result<GenerationStatus> {
    let generations = store.generations(NAME).await?;
    generations.into_iter().find(|status| status.role == role).context("there is none")
}

async fn a_reverted_column_is_no_reason_to_build_rows_anew(home: Home) -> Result<()> {
    let store = home.open().await?;
    let generation = offer(&*store, "one", &contract(&numbers())).await?.generation;
    offer(&*store, "two", &contract(&with_note("text"))).await?;
    assert!(store.revert(&generation, "two", "one", "it fails").await?);
    assert!(!store.revert(&generation, "two", "one", "again").await?, "another one is active");
    let hotfix = with(|json| json["version"] = "1.0.1".into());
    assert_eq!(offer(&*store, "three", &contract(&hotfix)).await?.generation, generation);
    // With the column, of the type that it has.
    assert_eq!(offer(&*store, "four", &contract(&with_note("text"))).await?.generation, generation);
    assert_eq!(store.generations(NAME).await?.len(), 1);
    Ok(())
}

async fn whoever_deploys_the_active_version_withdraws_what_was_asked_for(home: Home) -> Result<()> {
    let store = home.open().await?;
    let (one, two) = (contract(&numbers()), contract(&with_note("text")));
    offer(&*store, "one", &one).await?;
    store.propose(&proposal("two", &two, Origin::Directory)).await?;
    assert_eq!(store.open_deployments().await?.len(), 1);
    store.propose(&proposal("one", &one, Origin::Command)).await?;
    assert!(store.open_deployments().await?.is_empty());
    let history = store.history(NAME, 9).await?;
    assert_eq!(history[0].decision.state, "withdrawn", "{history:#?}");
    Ok(())
}

/// Two generations of the same columns, of which the new one keeps tombstones.
async fn readers_see_no_tombstone_of_a_generation_that_has_others(home: Home) -> Result<()> {
    let store = home.open().await?;
    offer(&*store, "one", &contract(&numbers())).await?;
    let guarded = json!({"name": "drop", "table": "number", "kind": "delete", "by": ["id"], "guard": "n"});
    let other = with(|json| {
        json["statements"][1] = guarded;
        json["topics"][0]["statements"] = json!(["put", "drop"]);
    });
    let building = offer(&*store, "two", &contract(&other)).await?.generation;
    home.by_hand(
        "insert into some_orders_g2.number values (1, 1, false), (2, 2, true)",
        "insert into some_orders_g2__number values (1, 1, 0), (2, 2, 1)",
    )
    .await?;
    store.set_caught_up(&building).await?;
    let promoted = store.promote(&building, &[], Origin::Command, &Requester::default()).await?;
    assert!(promoted.replaced, "{promoted:?}");
    assert_eq!(count(&home).await?, 1);
    // And back.
    let first = status(&*store, Role::Warm).await?.generation;
    store.set_caught_up(&first).await?;
    store.promote(&first, &[], Origin::Command, &Requester::default()).await?;
    assert_eq!(count(&home).await?, 0);
    Ok(())
}

/// Rows as readers see them.
async fn count(home: &Home) -> Result<i64> {
    let sql = |view: &str| AssertSqlSafe(format!("select count(*) from {view}"));
    Ok(match home.session().await? {
        Session::Postgres(mut session) => {
            sqlx::query(sql("some_orders.number")).fetch_one(&mut session).await?.get(0)
        }
        Session::Sqlite(mut session) => {
            sqlx::query(sql("some_orders__number")).fetch_one(&mut session).await?.get(0)
        }
    })
}

async fn a_generation_that_is_behind_or_not_caught_up_is_not_shown(home: Home) -> Result<()> {
    let store = home.open().await?;
    let live = Projection::install(store.clone(), contract(&numbers())).await?;
    live.write(&[vec![], vec![]]).await?;
    let building =
        offer(&*store, "two", &contract(&with(|json| json["revision"] = 2.into()))).await?.generation;
    let promote =
        async || store.promote(&building, &["t".to_owned()], Origin::Command, &Requester::default()).await;
    let (projection, number) = (building.projection.clone(), building.number);
    let behind = Refusal::Behind { projection: projection.clone(), number, partitions: vec![partition()] };
    let refused = |refused: Result<_, StoreError>, expected: &Refusal| match refused {
        Err(StoreError::Refused(refusal)) => assert_eq!(refusal, *expected),
        other => panic!("{other:?}"),
    };
    refused(promote().await, &Refusal::NotCaughtUp { projection, number });
    store.set_caught_up(&building).await?;
    // Of a topic that it reads, and of which it began nothing.
    refused(promote().await, &behind);
    store.begin_partition(&building, &partition(), &Beginning::at(1)).await?;
    refused(promote().await, &behind);
    assert_eq!(store.behind(building.id, live.deployment.generation.id, &[]).await?, []);
    assert_eq!(status(&*store, Role::Live).await?.generation, live.deployment.generation);
    Ok(())
}

async fn a_write_barrier_belongs_to_its_owner_and_ends_by_itself(home: Home) -> Result<()> {
    let store = home.open().await?;
    let live = Projection::install(store.clone(), contract(&numbers())).await?;
    let (held, long) = ([live.deployment.generation.id], Duration::from_secs(60));
    let [one, other] = [Uuid::new_v4(), Uuid::new_v4()];
    assert!(store.raise_barrier(&held, one, None, long).await?);
    assert!(!store.raise_barrier(&held, other, None, long).await?);
    store.release_barrier(&held, other).await?;
    assert!(matches!(live.write(&[vec![]]).await, Err(StoreError::WriteBarrier(WriteBarrier::Closed))));
    // Up to an offset.
    let at = Offsets::from([(partition(), 1)]);
    assert!(store.raise_barrier(&held, one, Some(&at), long).await?);
    assert!(matches!(
        live.write(&[vec![], vec![]]).await,
        Err(StoreError::WriteBarrier(WriteBarrier::UpTo(_)))
    ));
    live.write(&[vec![]]).await?;
    // The barrier of an owner that died ends by itself.
    assert!(store.raise_barrier(&held, one, None, Duration::ZERO).await?);
    live.write(&[vec![]]).await?;
    assert!(store.raise_barrier(&held, other, None, long).await?);
    store.release_barrier(&held, other).await?;
    live.write(&[vec![]]).await?;
    Ok(())
}

/// What a deployment left that came to nothing is not taken for what another one adds.
#[tokio::test]
async fn what_was_left_in_tables_in_use_is_made_anew_on_postgres() -> Result<()> {
    let home = Home::postgres()?;
    let store = home.open().await?;
    let generation = offer(&*store, "one", &contract(&numbers())).await?.generation;
    for left in [
        "alter table some_orders_g1.number add column note text",
        // As the host made it: it is known by the name of its key.
        "create table some_orders_g1.other (mine text constraint other__58a9c204 primary key)",
    ] {
        home.by_hand(left, "").await?;
    }
    let mut more = with_note("int64");
    let other = json!({"name": "other", "key": ["id"], "columns": [{"name": "id", "type": "int64"}]});
    more["tables"].as_array_mut().expect("a list").push(other);
    assert_eq!(offer(&*store, "two", &contract(&more)).await?.generation, generation);
    let Session::Postgres(mut session) = home.session().await? else { unreachable!("it is Postgres") };
    let types: Vec<String> = sqlx::query_scalar(
        "select table_name || '.' || column_name || ' ' || data_type from information_schema.columns
         where table_schema = 'some_orders_v2' order by 1",
    )
    .fetch_all(&mut session)
    .await?;
    assert_eq!(types, ["number.id bigint", "number.n bigint", "number.note bigint", "other.id bigint"]);
    Ok(())
}
