//! Tables that were changed by hand: the host stops, and does not try for ever.

use anyhow::Result;
use projector_model::{LookupCall, Value};
use projector_store::StoreError;
use serde_json::json;

use super::home::Home;
use super::on_both_stores;
use super::projection::{PUT, Projection, contract, descriptor, numbers, numeric};

on_both_stores!(
    a_column_that_was_dropped_is_drift,
    a_table_that_was_dropped_is_drift,
    a_column_that_now_has_another_type_is_drift,
);

async fn installed(home: &Home) -> Result<Projection> {
    let descriptor = descriptor(
        numbers()["tables"].clone(),
        numbers()["statements"].clone(),
        json!([{"name": "one", "table": "number", "by": ["id"], "columns": ["n"]}]),
    );
    let projection = Projection::install(home.open().await?, contract(&descriptor)).await?;
    // What was prepared before is known to the session.
    projection.write(&[vec![numeric(PUT, &[1, 2])]]).await?;
    projection.read(&[one()]).await?;
    Ok(projection)
}

fn one() -> LookupCall {
    LookupCall { lookup: 0, arguments: vec![Value::Int64(1)] }
}

async fn is_drift(projection: &Projection) -> Result<()> {
    let written = projection.write(&[vec![numeric(PUT, &[1, 2])]]).await;
    assert!(matches!(written, Err(StoreError::Drift(_))), "{written:?}");
    let read = projection.read(&[one()]).await;
    assert!(matches!(read, Err(StoreError::Drift(_))), "{read:?}");
    assert_eq!(projection.offset().await?, 1);
    Ok(())
}

async fn a_column_that_was_dropped_is_drift(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    home.by_hand(
        "alter table some_orders_g1.number drop column n cascade",
        "drop view some_orders__number; alter table some_orders_g1__number drop column n",
    )
    .await?;
    is_drift(&projection).await
}

async fn a_table_that_was_dropped_is_drift(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    home.by_hand("drop table some_orders_g1.number cascade", "drop table some_orders_g1__number").await?;
    is_drift(&projection).await
}

async fn a_column_that_now_has_another_type_is_drift(home: Home) -> Result<()> {
    let projection = installed(&home).await?;
    home.by_hand(
        "drop view some_orders.number; alter table some_orders_g1.number alter column n type boolean using true",
        "drop view some_orders__number; drop table some_orders_g1__number;
         create table some_orders_g1__number (id integer primary key, n blob) strict;
         insert into some_orders_g1__number values (1, x'00')",
    )
    .await?;
    is_drift(&projection).await
}
