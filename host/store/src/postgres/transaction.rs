//! The transaction of a batch.
//!
//! Invariants: what is checked when it begins (the active component, a pause, the write barrier) holds until its end, since
//! a change of these waits for the fence that the batch shares. Checkpoints are locked in the order of topics and
//! partitions, and rows as `lock_rows` says, to avoid deadlocks between lanes.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;

use async_trait::async_trait;
use projector_core::batch::BatchLimits;
use projector_core::counters::{Counters, OutcomeCounts};
use projector_core::duplicate::{EventId, Known};
use projector_core::event::Partition;
use projector_core::failpoint;
use projector_core::ordering::{Blocked, KeyId};
use projector_core::planner::{self, Step};
use projector_model::interpret::{self, Row};
use projector_model::{LookupCall, Value};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, AssertSqlSafe, Row as _};

use super::errors::classify;
use super::locks::{ADVISORY_CLASS, FENCE_CLASS, ROWS_CLASS};
use super::refusals::{encoding, refused};
use super::sessions::Tx;
use super::statements::Statements;
use super::values::{self, Timestamp};
use crate::batches::{Transaction, WriteTarget};
use crate::error::StoreError;
use crate::host_tables::release::claim_operation;
use crate::host_tables::{Admission, adjust_counters};
use crate::lookup_rows::{Budget, LookupRows, MOST_ROWS};
use crate::release::{ClaimedOperation, LoneDeadLetter};
use crate::waiting_events::ReadyEvent;
use crate::write_barrier::WriteBarrier;
use crate::writes::{Advance, Writes};

pub(super) struct PostgresTransaction {
    pub(super) tx: Tx,
    pub(super) target: WriteTarget,
    statements: Arc<Statements>,
    any_blocked: bool,
    /// Up to where the batch may write.
    barrier: WriteBarrier,
    /// Whether what was written made waiting events ready.
    pub(super) made_ready: bool,
}

pub(super) async fn begin(
    mut tx: Tx,
    target: &WriteTarget,
    statements: Arc<Statements>,
    is_read_only: bool,
) -> Result<PostgresTransaction, StoreError> {
    let generation = target.generation.id;
    let number = generation as i32;
    let mut locks = format!("select pg_advisory_xact_lock_shared({FENCE_CLASS}, {number})");
    if target.contract.needs_one_writer() {
        locks.insert_str(0, &format!("select pg_advisory_xact_lock({ADVISORY_CLASS}, {number}); "));
    }
    // The locks are taken in a statement of their own, so that the next statement sees what the writer before committed, and
    // what was changed under the fence. The generation's row is not locked: other columns of it, such as the blocker, are
    // written while batches are in flight.
    sqlx::raw_sql(AssertSqlSafe(locks)).execute(&mut *tx).await.map_err(classify)?;
    let found: Option<Admission> = sqlx::query_as(
        "select g.active_digest, g.paused,
           exists (select from projector.blocked_key b where b.generation_id = g.id) as any_blocked,
           coalesce(g.hold_until > now(), false) as is_raised, g.hold_at::text as up_to
         from projector.generation g where g.id = $1",
    )
    .bind(generation)
    .fetch_optional(&mut *tx)
    .await
    .map_err(classify)?;
    let (any_blocked, barrier) = Admission::of(found, &target.digest, is_read_only)?;
    Ok(PostgresTransaction {
        tx,
        target: target.clone(),
        statements,
        any_blocked,
        barrier,
        made_ready: false,
    })
}

#[async_trait]
impl Transaction for PostgresTransaction {
    async fn read(
        &mut self,
        calls: &[LookupCall],
        most_bytes: usize,
    ) -> Result<Vec<Option<Vec<Row>>>, StoreError> {
        let mut found = vec![None; calls.len()];
        let mut budget = Budget::new(most_bytes, calls.len());
        for index in 0..self.target.contract.lookups.len() {
            let asked: Vec<usize> =
                (0..calls.len()).filter(|at| usize::from(calls[*at].lookup) == index).collect();
            let arguments: Vec<&[Value]> = asked.iter().map(|at| &calls[*at].arguments[..]).collect();
            let mut found_rows = LookupRows::new(asked.len(), budget.share(asked.len()));
            self.look_up(index, &arguments, &mut found_rows).await?;
            budget.spend(found_rows.bytes());
            asked.into_iter().zip(found_rows.into_rows()).for_each(|(at, rows)| found[at] = rows);
        }
        Ok(found)
    }

    async fn known(&mut self, ids: &[EventId]) -> Result<Known, StoreError> {
        self.find_known(ids).await
    }

    fn blocks_any(&self) -> bool {
        self.any_blocked
    }

    async fn blocked(&mut self, keys: Vec<KeyId>) -> Result<Blocked, StoreError> {
        self.lock_blocked(keys).await
    }

    async fn failed_and_waiting(&mut self) -> Result<(i64, i64), StoreError> {
        sqlx::query_as(
            "select coalesce(sum(dead), 0)::int8, coalesce(sum(parked + waiting), 0)::int8
             from projector.checkpoint where generation_id = $1",
        )
        .bind(self.generation())
        .fetch_one(&mut *self.tx)
        .await
        .map_err(classify)
    }

    async fn claim(
        &mut self,
        operation: i64,
        limits: BatchLimits,
    ) -> Result<Option<ClaimedOperation>, StoreError> {
        claim_operation(&mut *self.tx, &self.target, operation, limits).await
    }

    async fn claim_ready(&mut self, limits: BatchLimits) -> Result<Vec<ReadyEvent>, StoreError> {
        self.find_ready(limits).await
    }

    fn made_ready(&self) -> bool {
        self.made_ready
    }

    async fn claim_lone_dead_letters(
        &mut self,
        operations: &[i64],
        limits: BatchLimits,
    ) -> Result<Vec<LoneDeadLetter>, StoreError> {
        self.find_lone_dead_letters(operations, limits).await
    }

    async fn write(&mut self, writes: &Writes<'_>) -> Result<u64, StoreError> {
        failpoint::reached(failpoint::BEFORE_WRITE, &self.target.generation.projection);
        writes.within(&self.barrier)?;
        self.advance(&writes.advances, &writes.record_times).await?;
        if let Some(shifts) = writes.shifts() {
            // Checkpoints before rows, in the order of all batches.
            adjust_counters(&mut *self.tx, self.target.generation.id, shifts).await?;
        }
        let changes =
            writes.changes.iter().flat_map(|(event, changes)| changes.iter().map(|change| (*event, change)));
        let steps = planner::plan(&self.target.contract, &self.statements.rules, changes);
        self.lock_rows(&steps).await?;
        let mut effects = vec![(0, 0); self.target.contract.writes.len()];
        for step in &steps {
            let rows = self.execute(step, writes).await?;
            let (all_changes, all_rows) = &mut effects[usize::from(step.statement)];
            *all_changes += step.changes as i64;
            *all_rows += rows as i64;
        }
        if let Some(release) = &writes.release {
            self.release(release).await?;
        }
        if let Some(lone) = &writes.lone {
            self.write_lone_results(lone).await?;
        }
        self.insert_dead_letters(&writes.dead, writes.release.as_ref()).await?;
        self.park(&writes.parked).await?;
        self.end_waits_for(&writes.rows).await?;
        self.remember(&writes.ids).await?;
        self.record_duplicates(&writes.duplicates).await?;
        self.count_without_id(&writes.without_id).await?;
        let counts = match writes.shifts() {
            None => writes.advances.iter().map(|advance| (&advance.partition, &advance.counts)).collect(),
            Some(shifts) => shifts.iter().map(|(partition, counts)| (partition, counts)).collect(),
        };
        self.count(counts, &effects).await?;
        Ok(steps.len() as u64)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let projection = self.target.generation.projection.clone();
        failpoint::reached(failpoint::BEFORE_COMMIT, &projection);
        self.tx.commit().await?;
        failpoint::reached(failpoint::AFTER_COMMIT, &projection);
        Ok(())
    }
}

impl PostgresTransaction {
    pub(super) fn generation(&self) -> i64 {
        self.target.generation.id
    }

    /// Adds the rows that a lookup finds with each of these arguments.
    async fn look_up(
        &mut self,
        index: usize,
        selections: &[&[Value]],
        found: &mut LookupRows,
    ) -> Result<(), StoreError> {
        let lookup = &self.target.contract.lookups[index];
        let table = &self.target.contract.tables[lookup.table];
        let columns = lookup.read_columns(table);
        let with_tombstones = lookup.is_by_key(table) && table.has_tombstones;
        let decode = |row: &PgRow| -> Result<Row, sqlx::Error> {
            let values = columns.iter().enumerate();
            let values = values.map(|(at, column)| values::decode(row, at + 1, table.columns[*column].ty));
            let values = values.collect::<Result<Vec<Value>, _>>()?;
            Ok(Row { tombstone: with_tombstones && row.try_get(values.len() + 1)?, values })
        };
        let in_a_query = (MOST_ROWS / lookup.limit as usize).max(1);
        for (first, chunk) in (0..).step_by(in_a_query).zip(selections.chunks(in_a_query)) {
            let mut arguments = PgArguments::default();
            for (at, column) in lookup.by.iter().enumerate() {
                let values = chunk.iter().map(|selection| &selection[at]);
                values::bind(&mut arguments, table.columns[*column].ty, values).map_err(encoding)?;
            }
            let sql = AssertSqlSafe(self.statements.lookups[index].clone());
            let mut rows = sqlx::query_with(sql, arguments).fetch(&mut *self.tx);
            while let Some(row) = poll_fn(|cx| rows.as_mut().poll_next(cx)).await {
                let row = row.map_err(classify)?;
                let ordinal: i64 = row.get(0);
                let row = decode(&row).map_err(StoreError::drift)?;
                if !found.add(first + (ordinal - 1) as usize, row) {
                    return Ok(());
                }
            }
            found.complete(first + chunk.len());
        }
        Ok(())
    }

    /// Prevents deadlocks between lanes. Batches whose statements lock rows in one order run side by side; a batch whose
    /// statements cannot lock them in this order runs alone. A contract that needs one writer has no other lanes.
    async fn lock_rows(&mut self, steps: &[Step]) -> Result<(), StoreError> {
        let contract = &self.target.contract;
        if steps.is_empty() || contract.needs_one_writer() {
            return Ok(());
        }
        let sql = match planner::locks_in_order(contract, steps) {
            true => "select pg_advisory_xact_lock_shared($1, $2)",
            false => "select pg_advisory_xact_lock($1, $2)",
        };
        let lock = sqlx::query(sql).bind(ROWS_CLASS).bind(self.generation() as i32);
        lock.execute(&mut *self.tx).await.map(drop).map_err(classify)
    }

    /// Compares and sets the checkpoint of every partition. The rows are locked in one order first, to avoid deadlocks.
    async fn advance(
        &mut self,
        advances: &[Advance],
        record_times: &BTreeMap<Partition, i64>,
    ) -> Result<(), StoreError> {
        if advances.is_empty() {
            return Ok(());
        }
        let column = |of: fn(&Advance) -> i64| advances.iter().map(of).collect::<Vec<i64>>();
        let totals: Vec<Counters> = advances.iter().map(|advance| advance.counts.totals()).collect();
        let counted = |of: fn(&Counters) -> i64| totals.iter().map(of).collect::<Vec<i64>>();
        let recorded: Vec<Option<Timestamp>> = advances
            .iter()
            .map(|advance| record_times.get(&advance.partition).copied().map(Timestamp))
            .collect();
        let moved = sqlx::query(
            "with locked as (
               select c.topic, c.partition from projector.checkpoint c
               join unnest($2::text[], $3::int4[]) as u(topic, partition) using (topic, partition)
               where c.generation_id = $1 order by c.topic, c.partition for update of c)
             update projector.checkpoint c
             set next_offset = u.next, read = c.read + u.applied + u.ignored + u.parked + u.waiting + u.dead,
                 applied = c.applied + u.applied, ignored = c.ignored + u.ignored, parked = c.parked + u.parked,
                 waiting = c.waiting + u.waiting, dead = c.dead + u.dead, paused = null, updated_at = now(),
                 recorded_at = case when u.recorded_at is null then c.recorded_at else least(u.recorded_at, now()) end
             from unnest($2::text[], $3::int4[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[],
                 $10::timestamptz[], $11::int8[])
               as u(topic, partition, expected, next, applied, ignored, parked, dead, recorded_at, waiting)
             join locked using (topic, partition)
             where c.generation_id = $1 and c.topic = u.topic and c.partition = u.partition
               and c.next_offset = u.expected
             returning c.topic, c.partition",
        )
        .bind(self.generation())
        .bind(advances.iter().map(|advance| &*advance.partition.topic).collect::<Vec<&str>>())
        .bind(advances.iter().map(|advance| advance.partition.number).collect::<Vec<i32>>())
        .bind(column(|advance| advance.expected))
        .bind(column(|advance| advance.next))
        .bind(counted(|totals| totals.applied))
        .bind(counted(|totals| totals.ignored))
        .bind(counted(|totals| totals.parked))
        .bind(counted(|totals| totals.dead))
        .bind(recorded)
        .bind(counted(|totals| totals.waiting))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(classify)?;
        if moved.len() == advances.len() {
            return Ok(());
        }
        let moved: Vec<(String, i32)> = moved.iter().map(|row| (row.get(0), row.get(1))).collect();
        let as_expected = |partition: &Partition| {
            moved.iter().any(|(topic, number)| **topic == *partition.topic && *number == partition.number)
        };
        let others =
            advances.iter().map(|advance| &advance.partition).filter(|partition| !as_expected(partition));
        Err(StoreError::CheckpointMoved(others.cloned().collect()))
    }

    /// Runs one planned statement. Returns how many rows it touched.
    async fn execute(&mut self, step: &Step, writes: &Writes<'_>) -> Result<u64, StoreError> {
        let statement = &self.statements.writes[usize::from(step.statement)];
        let arguments = || -> Result<PgArguments, StoreError> {
            let mut arguments = PgArguments::default();
            for (at, ty) in statement.types.iter().enumerate() {
                let values = step.rows.iter().map(|row| &row.arguments[at]);
                values::bind(&mut arguments, *ty, values).map_err(encoding)?;
            }
            Ok(arguments)
        };
        if let Some(first_miss) = &statement.first_miss {
            let missed: Option<i64> =
                sqlx::query_scalar_with(AssertSqlSafe(first_miss.clone()), arguments()?)
                    .fetch_optional(&mut *self.tx)
                    .await
                    .map_err(classify)?;
            if let Some(ordinal) = missed {
                let row = &step.rows[(ordinal - 1) as usize];
                let write = &self.target.contract.writes[usize::from(step.statement)];
                let table = &self.target.contract.tables[write.table];
                let rejection = interpret::missed(write, table, &row.arguments[..write.by.len()]);
                return Err(StoreError::Rejected { event: row.event, rejection });
            }
        }
        let mut arguments = arguments()?;
        if statement.writes_lineage {
            let writers = || step.rows.iter().map(|row| writes.positions[row.writer]);
            let topics: Vec<&str> = writers().map(|position| &*position.partition.topic).collect();
            let partitions: Vec<i32> = writers().map(|position| position.partition.number).collect();
            let offsets: Vec<i64> = writers().map(|position| position.offset).collect();
            arguments.add(topics).map_err(encoding)?;
            arguments.add(partitions).map_err(encoding)?;
            arguments.add(offsets).map_err(encoding)?;
            arguments.add(&*self.target.digest).map_err(encoding)?;
        }
        let one_event = writes.changes.len() == 1;
        let done = sqlx::query_with(AssertSqlSafe(statement.sql.clone()), arguments)
            .execute(&mut *self.tx)
            .await
            .map_err(|error| refused(&self.target.contract, step, one_event, error))?;
        Ok(done.rows_affected())
    }

    /// Counts outcomes by code and effects by statement.
    async fn count(
        &mut self,
        counts: Vec<(&Partition, &OutcomeCounts)>,
        effects: &[(i64, i64)],
    ) -> Result<(), StoreError> {
        let outcomes: Vec<(&Partition, &str, &str, i64)> = counts
            .iter()
            .flat_map(|(partition, counts)| {
                counts.outcomes().map(|(outcome, code, events)| (*partition, outcome, code, events))
            })
            .collect();
        if !outcomes.is_empty() {
            sqlx::query(
                "insert into projector.outcome as o (generation_id, topic, partition, outcome, code, events)
                 select $1, u.topic, u.partition, u.outcome, u.code, u.events
                 from unnest($2::text[], $3::int4[], $4::text[], $5::text[], $6::int8[])
                   as u(topic, partition, outcome, code, events)
                 on conflict (generation_id, topic, partition, outcome, code)
                 do update set events = o.events + excluded.events",
            )
            .bind(self.generation())
            .bind(outcomes.iter().map(|(partition, ..)| &*partition.topic).collect::<Vec<&str>>())
            .bind(outcomes.iter().map(|(partition, ..)| partition.number).collect::<Vec<i32>>())
            .bind(outcomes.iter().map(|(_, outcome, ..)| *outcome).collect::<Vec<&str>>())
            .bind(outcomes.iter().map(|(_, _, code, _)| *code).collect::<Vec<&str>>())
            .bind(outcomes.iter().map(|(.., events)| *events).collect::<Vec<i64>>())
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        let called: Vec<(usize, (i64, i64))> =
            effects.iter().copied().enumerate().filter(|(_, (changes, _))| *changes > 0).collect();
        if let (false, Some((partition, _))) = (called.is_empty(), counts.first()) {
            let writes = &self.target.contract.writes;
            sqlx::query(
                "insert into projector.effect as e (generation_id, topic, partition, statement, changes, rows)
                 select $1, $5, $6, u.statement, u.changes, u.rows
                 from unnest($2::text[], $3::int8[], $4::int8[]) as u(statement, changes, rows)
                 on conflict (generation_id, topic, partition, statement)
                 do update set changes = e.changes + excluded.changes, rows = e.rows + excluded.rows",
            )
            .bind(self.generation())
            .bind(called.iter().map(|(statement, _)| writes[*statement].name.as_str()).collect::<Vec<&str>>())
            .bind(called.iter().map(|(_, (changes, _))| *changes).collect::<Vec<i64>>())
            .bind(called.iter().map(|(_, (_, rows))| *rows).collect::<Vec<i64>>())
            .bind(&*partition.topic)
            .bind(partition.number)
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        Ok(())
    }
}
