//! Whose batches are written: those of the active component, and of no other.

use anyhow::Result;
use projector_core::event::Position;
use projector_store::{StoreError, Writes};

use super::home::{Home, wait_until};
use super::on_both_stores;
use super::projection::{PUT, Projection, advance, contract, numbers, numeric, offer, partition};

on_both_stores!(
    a_component_that_is_not_the_active_one_begins_nothing,
    an_activation_waits_for_the_transaction_in_flight_and_stops_the_next,
);

async fn a_component_that_is_not_the_active_one_begins_nothing(home: Home) -> Result<()> {
    let mut projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let active = std::mem::replace(&mut projection.deployment.digest, "another".into());
    match projection.begin().await.map(drop) {
        Err(StoreError::Inactive(digest)) => assert_eq!(digest, *active),
        other => panic!("{other:?}"),
    }
    Ok(())
}

async fn an_activation_waits_for_the_transaction_in_flight_and_stops_the_next(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let mut in_flight = projection.begin().await?;
    let (store, contract) = (projection.store.clone(), projection.deployment.contract.clone());
    let activation = tokio::spawn(async move { offer(&*store, "new", &contract).await });
    match &home {
        Home::Postgres { .. } => {
            let session = tokio::sync::Mutex::new(home.session().await?);
            let waits = async || Ok(session.lock().await.waiting_for("advisory").await? == 1);
            wait_until("the activation waits", waits).await?;
        }
        // Its one connection is taken; all that can be seen is that nothing happens.
        Home::Sqlite { .. } => tokio::task::yield_now().await,
    }
    assert!(!activation.is_finished());
    let changes = [numeric(PUT, &[1, 2])];
    let position = Position { partition: partition(), offset: 0 };
    let writes = Writes {
        advances: vec![advance(0, 1)],
        positions: vec![&position],
        changes: vec![(0, &changes)],
        ..Writes::default()
    };
    in_flight.write(&writes).await?;
    in_flight.commit().await?;
    assert_eq!(activation.await??.active, "new");
    assert!(
        matches!(projection.begin().await.map(drop), Err(StoreError::Inactive(digest)) if digest == "new")
    );
    assert_eq!(projection.offset().await?, 1, "what was in flight is committed");
    Ok(())
}
