//! Random projections, random transactions: Postgres, SQLite and the model end with the same rows and
//! the same lineage, and what the model rejects neither store accepts.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use projector_core::event::Position;
use projector_model::{Change, Contract, Tables};
use projector_store::StoreError;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use tokio::runtime::Runtime;

use super::home::Home;
use super::projection::{Projection, partition};
use super::{random, rows};

const CASES: u32 = 1_000;

#[test]
fn every_store_ends_with_the_rows_of_the_model() -> Result<()> {
    let runtime = Runtime::new()?;
    let homes = [Home::postgres()?, Home::sqlite()?];
    let stores = [runtime.block_on(homes[0].open())?, runtime.block_on(homes[1].open())?];
    let number = AtomicU32::new(0);
    // Cases that failed are kept, to be tried first, in tests/proptest-regressions.
    let config =
        Config { cases: CASES, max_shrink_iters: 500, source_file: Some(file!()), ..Config::default() };
    let outcome = TestRunner::new(config).run(&random::numbers(3, 12), |(dice, batches)| {
        let name = format!("p-{}", number.fetch_add(1, Ordering::Relaxed));
        let contract = random::descriptor(&name, &mut dice.throws()).check().expect("a sound descriptor");
        let batches: Vec<Vec<Vec<Change>>> = batches
            .iter()
            .map(|batch| batch.iter().map(|dice| random::event(&contract, dice)).collect())
            .collect();
        runtime.block_on(async {
            let mut projections = Vec::new();
            for store in &stores {
                projections
                    .push(Projection::install(store.clone(), contract.clone()).await.expect("it installs"));
            }
            compare(&homes, &projections, &contract, &batches).await.map_err(|difference| {
                TestCaseError::fail(format!(
                    "{difference:#}\n{}\n{batches:#?}",
                    contract.descriptor.to_json()
                ))
            })
        })
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, numbers)) => panic!("{reason}\nnumbers: {numbers:?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

async fn compare(
    homes: &[Home; 2],
    projections: &[Projection],
    contract: &Contract,
    batches: &[Vec<Vec<Change>>],
) -> Result<()> {
    let digest = &projections[0].deployment.digest;
    let mut model = Tables::new(contract);
    let mut writers = rows::Writers::new();
    let mut offset = 0;
    for batch in batches {
        let before = rows::of_model(contract, &model, &writers);
        let mut accepted = Vec::new();
        let mut rejected = Vec::new();
        for (at, changes) in batch.iter().enumerate() {
            let mark = model.mark();
            match model.apply_event(contract, changes) {
                Ok(_) => {
                    let position = Position { partition: partition(), offset };
                    let written = model.changed_since(mark).map(|(table, key)| (table, key.clone()));
                    writers.extend(written.map(|row| (row, format!("{position} by {digest}"))));
                    accepted.push(changes.clone());
                    offset += 1;
                }
                Err(rejection) => rejected.push((at, rejection)),
            }
        }
        for (home, projection) in homes.iter().zip(projections) {
            let generation = &projection.deployment.generation;
            if let Some((first, rejection)) = rejected.first() {
                let refused = projection.write(batch).await;
                let right = match (&refused, home) {
                    (Err(StoreError::Rejected { event, rejection: given }), Home::Sqlite { .. }) => {
                        (event, given) == (first, rejection)
                    }
                    // Set-wise, the event that is found may be a later one, or none; of several changes
                    // of one event that are refused, another one may be found.
                    (Err(StoreError::Rejected { event, rejection: given }), Home::Postgres { .. }) => {
                        *event > 0 || (*first == 0 && (given.code == rejection.code || batch[0].len() > 1))
                    }
                    (Err(StoreError::Data(_)), Home::Postgres { .. }) => true,
                    _ => false,
                };
                ensure!(
                    right,
                    "{}: {refused:?}, and the model rejects event {first}: {rejection}",
                    home.url()
                );
                let found = rows::of_store(home, contract, generation).await?;
                ensure!(found == before, "{}: a refused batch left rows", home.url());
            }
            projection.write(&accepted).await.with_context(|| home.url())?;
            let found = rows::of_store(home, contract, generation).await?;
            let expected = rows::of_model(contract, &model, &writers);
            ensure!(found == expected, "{}: {found:#?}\nand the model: {expected:#?}", home.url());
        }
    }
    Ok(())
}
