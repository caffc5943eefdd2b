//! The counters of a partition.

use projector_core::counters::OutcomeCounts;
use projector_core::event::Partition;

use super::Session;
use crate::error::StoreError;

/// Changes the counters of events that were counted before.
pub(crate) async fn adjust_counters<S: Session>(
    session: &mut S,
    generation: i64,
    shifts: &[(Partition, OutcomeCounts)],
) -> Result<(), StoreError> {
    for (partition, counts) in shifts {
        let totals = counts.totals();
        session
            .execute(
                "update projector.checkpoint set read = read + $4, applied = applied + $5, ignored = ignored + $6,
                   parked = parked + $7, dead = dead + $8, skipped = skipped + $9, waiting = waiting + $10
                 where generation_id = $1 and topic = $2 and partition = $3",
                &[
                    generation.into(),
                    (&*partition.topic).into(),
                    partition.number.into(),
                    totals.read.into(),
                    totals.applied.into(),
                    totals.ignored.into(),
                    totals.parked.into(),
                    totals.dead.into(),
                    totals.skipped.into(),
                    totals.waiting.into(),
                ],
            )
            .await?;
    }
    Ok(())
}

/// Changes the counters of events that were counted before, in all and by code.
pub(crate) async fn recount<S: Session>(
    session: &mut S,
    generation: i64,
    shifts: &[(Partition, OutcomeCounts)],
) -> Result<(), StoreError> {
    adjust_counters(session, generation, shifts).await?;
    for (partition, counts) in shifts {
        for (outcome, code, events) in counts.outcomes() {
            session
                .execute(
                    "insert into projector.outcome as o (generation_id, topic, partition, outcome, code, events)
                     values ($1, $2, $3, $4, $5, $6) on conflict (generation_id, topic, partition, outcome, code)
                     do update set events = o.events + excluded.events",
                    &[
                        generation.into(),
                        (&*partition.topic).into(),
                        partition.number.into(),
                        outcome.into(),
                        code.into(),
                        events.into(),
                    ],
                )
                .await?;
        }
    }
    Ok(())
}
