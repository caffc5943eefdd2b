//! What is removed of a projection's past, and what stays whatever is kept.

use std::num::NonZeroU32;

use anyhow::{Context, Result};
use projector_config::Keep;
use projector_core::deployment::Origin;
use projector_core::generation::Generation;
use projector_model::Contract;
use projector_store::deployments::Proposed;
use projector_store::retention::Pruned;
use projector_store::{Requester, Store};
use serde_json::json;

use super::home::Home;
use super::on_both_stores;
use super::projection::{BYTES, Projection, contract, numbers, offer, proposal};

on_both_stores!(
    components_that_nobody_can_go_back_to_lose_their_bytes,
    components_that_rows_may_name_keep_their_bytes,
    old_deployments_go_and_a_version_that_was_had_stays_known,
    old_operations_go,
    the_operations_log_outlives_what_it_is_about,
    the_generation_that_was_live_last_is_the_first_of_those_that_are_warm,
);

const NAME: &str = "some-orders";

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("it is not zero")
}

fn version(number: usize) -> Contract {
    let mut declared = numbers();
    declared["version"] = json!(format!("1.0.{number}"));
    contract(&declared)
}

/// Deploys so many versions, `v0` first.
async fn deploy(store: &dyn Store, versions: usize) -> Result<()> {
    for at in 0..versions {
        offer(store, &format!("v{at}"), &version(at)).await?;
    }
    Ok(())
}

async fn components_that_nobody_can_go_back_to_lose_their_bytes(home: Home) -> Result<()> {
    let store = home.open().await?;
    deploy(&*store, 6).await?;
    let keep = |versions| Keep { versions: number(versions), ..Keep::default() };
    assert_eq!(store.prune(NAME, &keep(3)).await?, Pruned { components: 3, ..Pruned::default() });
    for at in 0..6 {
        let component = store.component(&format!("v{at}")).await?;
        assert_eq!(component.is_some(), at >= 3, "v{at}");
    }
    // The active one, and the one before.
    assert_eq!(store.prune(NAME, &keep(1)).await?.components, 1);
    assert!(store.component("v5").await?.is_some() && store.component("v4").await?.is_some());
    // It is known all the same, and comes back with its bytes.
    assert_eq!(store.propose(&proposal("v0", &version(0), Origin::Directory)).await?, Proposed::Had);
    let proposed = store.propose(&proposal("v0", &version(0), Origin::Command)).await?;
    assert!(matches!(proposed, Proposed::Open(_)), "{proposed:?}");
    assert!(store.prune(NAME, &keep(1)).await?.is_empty(), "it is to be activated");
    assert_eq!(store.component("v0").await?.context("it is there again")?.bytes, BYTES);
    Ok(())
}

async fn components_that_rows_may_name_keep_their_bytes(home: Home) -> Result<()> {
    let store = home.open().await?;
    for at in 0..4 {
        let mut declared = numbers();
        declared["version"] = json!(format!("1.0.{at}"));
        declared["tables"][0]["lineage"] = json!(true);
        offer(&*store, &format!("v{at}"), &contract(&declared)).await?;
    }
    let keep = Keep { versions: number(1), ..Keep::default() };
    assert!(store.prune(NAME, &keep).await?.is_empty());
    assert!(store.component("v0").await?.is_some());
    Ok(())
}

async fn old_deployments_go_and_a_version_that_was_had_stays_known(home: Home) -> Result<()> {
    let store = home.open().await?;
    deploy(&*store, 3).await?;
    for at in 0..20 {
        store.set_stopped(NAME, at % 2 == 0, &Requester::default()).await?;
    }
    let keep = Keep { deployments: number(5), ..Keep::default() };
    let pruned = store.prune(NAME, &keep).await?;
    assert!(pruned.deployments >= 13, "{pruned:?}");
    let history = store.history(NAME, 99).await?;
    assert!(history.iter().take(5).all(|row| row.action == "start" || row.action == "stop"), "{history:#?}");
    let versions = history.iter().filter(|row| row.action == "deploy");
    assert_eq!(versions.filter_map(|row| row.digest.as_deref()).collect::<Vec<_>>(), ["v2", "v1", "v0"]);
    assert_eq!(store.propose(&proposal("v0", &version(0), Origin::Directory)).await?, Proposed::Had);
    assert!(store.prune(NAME, &keep).await?.is_empty(), "the rest stays");
    Ok(())
}

async fn old_operations_go(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let (store, generation) = (&projection.store, &projection.deployment.generation);
    let keep = Keep { operations: number(5), ..Keep::default() };
    for at in 0..20 {
        store.set_running(generation, at % 2 == 1, &Requester::default()).await?;
    }
    assert!(store.prune(NAME, &keep).await?.is_empty(), "somebody may wait for what came of them");
    home.by_hand(
        "update projector.operation set done_at = done_at - interval '1 hour'",
        "update projector_operation set done_at = done_at - 3600000000",
    )
    .await?;
    let newest = store.operations(Some(NAME), 5).await?;
    assert_eq!(store.prune(NAME, &keep).await?, Pruned { operations: 15, ..Pruned::default() });
    let left: Vec<i64> = store.operations(Some(NAME), 99).await?.iter().map(|row| row.id).collect();
    assert_eq!(left, newest.iter().map(|row| row.id).collect::<Vec<_>>());
    Ok(())
}

async fn the_operations_log_outlives_what_it_is_about(home: Home) -> Result<()> {
    let store = home.open().await?;
    let first = offer(&*store, "v0", &version(0)).await?.generation;
    let ann = |reason: &str| Requester::new("ann".into(), Some(reason.to_owned()));
    store.set_running(&first, false, &ann("too slow")).await?;
    let mut anew = numbers();
    anew["revision"] = json!(2);
    let second = offer(&*store, "v1", &contract(&anew)).await?.generation;
    store.set_caught_up(&second).await?;
    store.promote(&second, &[], Origin::Command, &Requester::default()).await?;
    store.retire(&first, Origin::Command, &ann("nobody reads it")).await?;
    store.set_stopped(NAME, true, &ann("it is over")).await?;
    store.drop_projection(NAME, &ann("nobody reads any of it")).await?;
    let log = store.operations(Some(NAME), 99).await?;
    let said: Vec<_> = log
        .iter()
        .map(|row| (&*row.action, row.generation, &*row.asked_by, row.reason.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(
        said,
        [
            ("drop", None, "ann", "nobody reads any of it"),
            ("retire", Some(1), "ann", "nobody reads it"),
            ("pause", Some(1), "ann", "too slow"),
        ]
    );
    assert_eq!(log[0].result, Some(json!({ "dropped": [2] })));
    Ok(())
}

async fn the_generation_that_was_live_last_is_the_first_of_those_that_are_warm(home: Home) -> Result<()> {
    let store = home.open().await?;
    let mut generations = vec![offer(&*store, "v0", &version(0)).await?.generation];
    let promote = async |generation: &Generation| {
        store.set_caught_up(generation).await?;
        store.promote(generation, &[], Origin::Command, &Requester::default()).await
    };
    for revision in 2..4 {
        let mut anew = numbers();
        anew["revision"] = json!(revision);
        generations.push(offer(&*store, &format!("v{revision}"), &contract(&anew)).await?.generation);
        promote(&generations[generations.len() - 1]).await?;
    }
    let warm = async || -> Result<Vec<i32>> {
        let warm = store.warm_generations(NAME).await?;
        Ok(warm.iter().map(|warm| warm.generation.number).collect())
    };
    assert_eq!(warm().await?, [2, 1]);
    promote(&generations[0]).await?;
    assert_eq!(warm().await?, [3, 2]);
    promote(&generations[1]).await?;
    assert_eq!(warm().await?, [1, 3]);
    assert!(store.warm_generations(NAME).await?.iter().all(|warm| !warm.has_views), "views were replaced");
    Ok(())
}
