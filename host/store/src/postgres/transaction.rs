//! One batch, one transaction.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;

use async_trait::async_trait;
use projector_core::batch::BatchLimits;
use projector_core::counters::{Counters, OutcomeCounts};
use projector_core::duplicate::{EventId, Known};
use projector_core::event::Partition;
use projector_core::event_failure::DatabaseRefusal;
use projector_core::failpoint;
use projector_core::ordering::{Blocked, KeyId};
use projector_core::planner::{self, Step};
use projector_model::change::codes;
use projector_model::descriptor::Operation;
use projector_model::interpret::{self, Row};
use projector_model::{Contract, LookupCall, Rejection, Value};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, AssertSqlSafe, Row as _};

use super::errors::classify;
use super::sessions::Tx;
use super::statements::Statements;
use super::tables;
use super::values::{self, Timestamp};
use super::{ADVISORY_CLASS, FENCE_CLASS, ROWS_CLASS};
use crate::finding::{Budget, Finding, MOST_ROWS};
use crate::host_tables::{Admission, adjust_counters};
use crate::operator::{ClaimedOperation, LoneDeadLetter};
use crate::waits::ReadyEvent;
use crate::{Advance, StoreError, Transaction, WriteBarrier, WriteTarget, Writes};

pub(super) struct PostgresTransaction {
    pub(super) tx: Tx,
    pub(super) deployment: WriteTarget,
    statements: Arc<Statements>,
    any_blocked: bool,
    /// How far it may go.
    barrier: WriteBarrier,
    /// What was written made events that had waited ready.
    pub(super) made_ready: bool,
}

pub(super) async fn begin(
    mut tx: Tx,
    deployment: &WriteTarget,
    statements: Arc<Statements>,
    only_to_look: bool,
) -> Result<PostgresTransaction, StoreError> {
    let generation = deployment.generation.id;
    // A host has far fewer generations than an int4 has values.
    let number = generation as i32;
    let mut locks = format!("select pg_advisory_xact_lock_shared({FENCE_CLASS}, {number})");
    if deployment.contract.needs_one_writer() {
        locks.insert_str(0, &format!("select pg_advisory_xact_lock({ADVISORY_CLASS}, {number}); "));
    }
    // In a statement before: what is found out then is as the writer before left it, and whoever decided about
    // the generation under its fence. The generation's row is not locked: what else is kept there, such as why
    // it stands still, is written beside any number of batches.
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
    let (any_blocked, barrier) = Admission::of(found, &deployment.digest, only_to_look)?;
    Ok(PostgresTransaction {
        tx,
        deployment: deployment.clone(),
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
        for index in 0..self.deployment.contract.lookups.len() {
            let asked: Vec<usize> =
                (0..calls.len()).filter(|at| usize::from(calls[*at].lookup) == index).collect();
            let arguments: Vec<&[Value]> = asked.iter().map(|at| &calls[*at].arguments[..]).collect();
            let mut finding = Finding::new(asked.len(), budget.share(asked.len()));
            self.look_up(index, &arguments, &mut finding).await?;
            budget.spend(finding.bytes());
            asked.into_iter().zip(finding.into_rows()).for_each(|(at, rows)| found[at] = rows);
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

    async fn waiting(&mut self) -> Result<(i64, i64), StoreError> {
        sqlx::query_as(
            "select coalesce(sum(dead), 0)::int8, coalesce(sum(parked + waiting), 0)::int8
             from projector.checkpoint where generation_id = $1",
        )
        .bind(self.generation())
        .fetch_one(&mut *self.tx)
        .await
        .map_err(classify)
    }

    async fn take(
        &mut self,
        operation: i64,
        limits: BatchLimits,
    ) -> Result<Option<ClaimedOperation>, StoreError> {
        self.take_waiting(operation, limits).await
    }

    async fn take_ready(&mut self, limits: BatchLimits) -> Result<Vec<ReadyEvent>, StoreError> {
        self.find_ready(limits).await
    }

    fn made_ready(&self) -> bool {
        self.made_ready
    }

    async fn take_lone_letters(
        &mut self,
        operations: &[i64],
        limits: BatchLimits,
    ) -> Result<Vec<LoneDeadLetter>, StoreError> {
        self.find_lone_letters(operations, limits).await
    }

    async fn write(&mut self, writes: &Writes<'_>) -> Result<u64, StoreError> {
        failpoint::reached(failpoint::BEFORE_WRITE, &self.deployment.generation.projection);
        writes.within(&self.barrier)?;
        self.advance(&writes.advances, &writes.record_times).await?;
        if let Some(shifts) = writes.shifts() {
            // Checkpoints first, as all writers do.
            adjust_counters(&mut *self.tx, self.deployment.generation.id, shifts).await?;
        }
        let changes =
            writes.changes.iter().flat_map(|(event, changes)| changes.iter().map(|change| (*event, change)));
        let steps = planner::plan(&self.deployment.contract, &self.statements.rules, changes);
        self.take_turn(&steps).await?;
        let mut effects = vec![(0, 0); self.deployment.contract.writes.len()];
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
            self.settle_lone_letters(lone).await?;
        }
        self.insert_dead_letters(&writes.dead, writes.release.as_ref()).await?;
        self.park(&writes.parked).await?;
        self.rows_came(&writes.rows).await?;
        self.remember(&writes.ids).await?;
        self.record_duplicates(&writes.duplicates).await?;
        self.count_without_id(&writes.without_id).await?;
        let books = match writes.shifts() {
            None => writes.advances.iter().map(|advance| (&advance.partition, &advance.books)).collect(),
            Some(shifts) => shifts.iter().map(|(partition, books)| (partition, books)).collect(),
        };
        self.count(books, &effects).await?;
        Ok(steps.len() as u64)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let projection = self.deployment.generation.projection.clone();
        failpoint::reached(failpoint::BEFORE_COMMIT, &projection);
        self.tx.commit().await?;
        failpoint::reached(failpoint::AFTER_COMMIT, &projection);
        Ok(())
    }
}

impl PostgresTransaction {
    pub(super) fn generation(&self) -> i64 {
        self.deployment.generation.id
    }

    /// What a lookup finds with each of these arguments.
    async fn look_up(
        &mut self,
        index: usize,
        selections: &[&[Value]],
        finding: &mut Finding,
    ) -> Result<(), StoreError> {
        let lookup = &self.deployment.contract.lookups[index];
        let table = &self.deployment.contract.tables[lookup.table];
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
                if !finding.take(first + (ordinal - 1) as usize, row) {
                    return Ok(());
                }
            }
            finding.complete(first + chunk.len());
        }
        Ok(())
    }

    /// Keeps lanes from a deadlock: those whose statements lock rows in one order go side by side, one whose
    /// statements cannot goes alone. Where there is one writer anyway, it has nobody to wait for.
    async fn take_turn(&mut self, steps: &[Step]) -> Result<(), StoreError> {
        let contract = &self.deployment.contract;
        if steps.is_empty() || contract.needs_one_writer() {
            return Ok(());
        }
        let sql = match planner::locks_in_order(contract, steps) {
            true => "select pg_advisory_xact_lock_shared($1, $2)",
            false => "select pg_advisory_xact_lock($1, $2)",
        };
        let turn = sqlx::query(sql).bind(ROWS_CLASS).bind(self.generation() as i32);
        turn.execute(&mut *self.tx).await.map(drop).map_err(classify)
    }

    /// Compares and sets every partition's checkpoint. Their rows are locked in one order first.
    async fn advance(
        &mut self,
        advances: &[Advance],
        record_times: &BTreeMap<Partition, i64>,
    ) -> Result<(), StoreError> {
        if advances.is_empty() {
            return Ok(());
        }
        let column = |of: fn(&Advance) -> i64| advances.iter().map(of).collect::<Vec<i64>>();
        let totals: Vec<Counters> = advances.iter().map(|advance| advance.books.totals()).collect();
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

    /// Runs one planned statement; returns the rows that it touched.
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
                let write = &self.deployment.contract.writes[usize::from(step.statement)];
                let table = &self.deployment.contract.tables[write.table];
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
            arguments.add(&*self.deployment.digest).map_err(encoding)?;
        }
        let one_event = writes.changes.len() == 1;
        let done = sqlx::query_with(AssertSqlSafe(statement.sql.clone()), arguments)
            .execute(&mut *self.tx)
            .await
            .map_err(|error| refused(&self.deployment.contract, step, one_event, error))?;
        Ok(done.rows_affected())
    }

    /// Counts outcomes by code and effects by statement.
    async fn count(
        &mut self,
        books: Vec<(&Partition, &OutcomeCounts)>,
        effects: &[(i64, i64)],
    ) -> Result<(), StoreError> {
        let outcomes: Vec<(&Partition, &str, &str, i64)> = books
            .iter()
            .flat_map(|(partition, books)| {
                books.outcomes().map(|(outcome, code, events)| (*partition, outcome, code, events))
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
        if let (false, Some((partition, _))) = (called.is_empty(), books.first()) {
            let writes = &self.deployment.contract.writes;
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

/// A sum beyond its column names its event, where only one can be meant, and its column. `one_event`:
/// all changes of the batch are one event's.
fn refused(contract: &Contract, step: &Step, one_event: bool, error: sqlx::Error) -> StoreError {
    let overflow =
        error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "22003");
    let too_large =
        error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "54000");
    match classify(error) {
        StoreError::Data(refusal) if too_large => {
            StoreError::Data(too_long_for_an_index(contract, step, refusal))
        }
        StoreError::Data(_) if overflow && (one_event || step.changes == 1) => {
            let write = &contract.writes[usize::from(step.statement)];
            let table = &contract.tables[write.table];
            let sums: Vec<String> = write
                .set
                .iter()
                .filter(|(_, operation)| *operation == Operation::Add)
                .map(|(column, _)| &table.columns[*column])
                .map(|column| format!("{}.{}: the sum is beyond {}", table.name, column.name, column.ty))
                .collect();
            StoreError::Rejected {
                event: step.rows[0].event,
                rejection: Rejection::new(codes::OVERFLOW, sums.join(", or ")),
            }
        }
        error => error,
    }
}

/// Names table, columns and index: Postgres does not always.
fn too_long_for_an_index(contract: &Contract, step: &Step, refusal: DatabaseRefusal) -> DatabaseRefusal {
    let table = contract.writes[usize::from(step.statement)].table;
    let (declared, table) = (&contract.descriptor.tables[table], &contract.tables[table]);
    let key: Vec<&str> = table.column_names(&table.key).collect();
    let indexes = tables::indexed(&table.name, &key, &declared.indexes);
    let meant: Vec<_> = match &refusal.constraint {
        Some(name) => indexes.iter().filter(|(known, _)| known == name).collect(),
        None => indexes.iter().collect(),
    };
    let columns: Vec<&str> =
        meant.iter().flat_map(|(_, columns)| columns.iter().map(String::as_str)).collect();
    let names: Vec<&str> = meant.iter().map(|(name, _)| name.as_str()).collect();
    let message = format!(
        "{}: a value of {} is too long for the index {} ({}): have it shortened, or leave it out of the index",
        table.name,
        columns.join(" or "),
        names.join(" or "),
        refusal.message
    );
    let only = |all: &[&str]| match all {
        [only] => Some((*only).to_owned()),
        _ => None,
    };
    DatabaseRefusal {
        message,
        table: Some(table.name.clone()),
        column: only(&columns),
        constraint: refusal.constraint.or_else(|| only(&names)),
    }
}

/// Values that fit their columns can be encoded; the batch would fail the same way again.
fn encoding(error: sqlx::error::BoxDynError) -> StoreError {
    StoreError::Unusable(format!("a value cannot be encoded: {error}"))
}
