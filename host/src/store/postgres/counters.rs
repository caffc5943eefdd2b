//! How events of a partition are counted.

use sqlx::postgres::PgConnection;

use super::errors::classify;
use crate::event::Partition;
use crate::store::{OutcomeCounts, StoreError};

/// Counts events anew that were read before.
pub(super) async fn adjust_counters(
    connection: &mut PgConnection,
    generation: i64,
    shifts: &[(Partition, OutcomeCounts)],
) -> Result<(), StoreError> {
    for (partition, books) in shifts {
        let totals = books.totals();
        sqlx::query(
            "update projector.checkpoint set read = read + $4, applied = applied + $5, ignored = ignored + $6,
               parked = parked + $7, dead = dead + $8, skipped = skipped + $9, waiting = waiting + $10
             where generation_id = $1 and topic = $2 and partition = $3",
        )
        .bind(generation)
        .bind(&*partition.topic)
        .bind(partition.number)
        .bind(totals.read)
        .bind(totals.applied)
        .bind(totals.ignored)
        .bind(totals.parked)
        .bind(totals.dead)
        .bind(totals.skipped)
        .bind(totals.waiting)
        .execute(&mut *connection)
        .await
        .map_err(classify)?;
    }
    Ok(())
}
