//! What `status` shows: everything that is committed, read in one transaction.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::errors::classify;
use crate::store::{Counters, PartitionState, Projection, StatementCount, StoreError};

/// Every projection, as the connection's transaction sees it.
pub(super) async fn overview(snapshot: &mut PgConnection) -> Result<Vec<Projection>, StoreError> {
    let rows = sqlx::query(
        "select g.id, g.projection, g.number, g.active_digest, g.halted, c.version, c.descriptor::text,
           (select count(*) from projector.dead_letter d where d.generation_id = g.id)
         from projector.generation g join projector.component c on c.digest = g.active_digest
         order by g.projection, g.number",
    )
    .fetch_all(&mut *snapshot)
    .await
    .map_err(classify)?;
    let mut projections = Vec::with_capacity(rows.len());
    for row in rows {
        let id: i64 = row.get(0);
        projections.push(Projection {
            name: row.get(1),
            generation: row.get(2),
            digest: row.get(3),
            halted: row.get(4),
            version: row.get(5),
            descriptor: row.get(6),
            dead_letters: row.get(7),
            partitions: partition_states(snapshot, id).await?,
            statements: statement_counts(snapshot, id).await?,
        });
    }
    Ok(projections)
}

async fn partition_states(
    snapshot: &mut PgConnection,
    generation: i64,
) -> Result<Vec<PartitionState>, StoreError> {
    let mut codes: BTreeMap<(String, i32, String), BTreeMap<String, i64>> = BTreeMap::new();
    let outcomes = sqlx::query(
        "select topic, partition, outcome, code, events from projector.outcome where generation_id = $1",
    )
    .bind(generation)
    .fetch_all(&mut *snapshot)
    .await
    .map_err(classify)?;
    for row in outcomes {
        codes.entry((row.get(0), row.get(1), row.get(2))).or_default().insert(row.get(3), row.get(4));
    }
    let rows = sqlx::query(
        "select topic, partition, next_offset, read, applied, ignored, parked, dead, skipped, paused
         from projector.checkpoint where generation_id = $1 order by topic, partition",
    )
    .bind(generation)
    .fetch_all(&mut *snapshot)
    .await
    .map_err(classify)?;
    Ok(rows
        .iter()
        .map(|row| {
            let (topic, partition): (String, i32) = (row.get(0), row.get(1));
            let mut by_code = |outcome: &str| {
                codes.remove(&(topic.clone(), partition, outcome.to_owned())).unwrap_or_default()
            };
            PartitionState {
                ignored_by_code: by_code("ignored"),
                dead_by_code: by_code("dead"),
                topic: topic.clone(),
                partition,
                checkpoint: row.get(2),
                counters: Counters {
                    read: row.get(3),
                    applied: row.get(4),
                    ignored: row.get(5),
                    parked: row.get(6),
                    dead: row.get(7),
                    skipped: row.get(8),
                },
                paused: row.get(9),
            }
        })
        .collect())
}

async fn statement_counts(
    snapshot: &mut PgConnection,
    generation: i64,
) -> Result<BTreeMap<String, StatementCount>, StoreError> {
    let rows = sqlx::query(
        "select statement, sum(changes)::int8, sum(rows)::int8 from projector.effect
         where generation_id = $1 group by statement",
    )
    .bind(generation)
    .fetch_all(&mut *snapshot)
    .await
    .map_err(classify)?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), StatementCount { changes: row.get(1), rows: row.get(2) }))
        .collect())
}
