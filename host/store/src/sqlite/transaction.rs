//! The transaction of a batch.
//!
//! The rows that the batch can touch are loaded, the model's interpreter applies the changes one by one, and the changed
//! rows are written back. The transaction writes alone, so no row and no key has to be locked.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use projector_core::batch::BatchLimits;
use projector_core::counters::OutcomeCounts;
use projector_core::duplicate::{EventId, Known};
use projector_core::event::{Partition, Position};
use projector_core::failpoint;
use projector_core::ordering::{Blocked, KeyId};
use projector_model::interpret::{Key, Row};
use projector_model::{LookupCall, Tables, Value};
use sqlx::sqlite::SqlitePool;

use super::errors::classify;
use super::rows::{Stored, Writer};
use super::{Tx, now_micros};
use crate::batches::{Transaction, WriteTarget};
use crate::error::StoreError;
use crate::host_tables::release::claim_operation;
use crate::host_tables::{Admission, adjust_counters};
use crate::lookup_rows::{Budget, LookupRows};
use crate::release::{ClaimedOperation, LoneDeadLetter};
use crate::waiting_events::ReadyEvent;
use crate::write_barrier::WriteBarrier;
use crate::writes::{Advance, Writes};

pub(super) struct SqliteTransaction {
    pub(super) tx: Tx,
    pub(super) target: WriteTarget,
    any_blocked: bool,
    /// Up to where the batch may write.
    barrier: WriteBarrier,
    /// Whether what was written made waiting events ready.
    pub(super) made_ready: bool,
}

pub(super) async fn begin(
    pool: &SqlitePool,
    target: &WriteTarget,
    is_read_only: bool,
) -> Result<SqliteTransaction, StoreError> {
    let mut tx = pool.begin_with("begin immediate").await.map_err(classify)?;
    let found: Option<Admission> = sqlx::query_as(
        "select g.active_digest, g.paused,
           exists (select 1 from projector_blocked_key b where b.generation_id = g.id) as any_blocked,
           coalesce(g.hold_until > ?2, 0) as is_raised, g.hold_at as up_to
         from projector_generation g where g.id = ?1",
    )
    .bind(target.generation.id)
    .bind(now_micros())
    .fetch_optional(&mut *tx)
    .await
    .map_err(classify)?;
    let (any_blocked, barrier) = Admission::of(found, &target.digest, is_read_only)?;
    Ok(SqliteTransaction { tx, target: target.clone(), any_blocked, barrier, made_ready: false })
}

/// By table, and by the keys of its changed rows: the position of the event that changed the row last. Only for tables with
/// lineage.
type Writers<'w> = Vec<BTreeMap<Key, &'w Position>>;

#[async_trait]
impl Transaction for SqliteTransaction {
    async fn read(
        &mut self,
        calls: &[LookupCall],
        most_bytes: usize,
    ) -> Result<Vec<Option<Vec<Row>>>, StoreError> {
        let contract = self.target.contract.clone();
        let mut found = vec![None; calls.len()];
        let mut budget = Budget::new(most_bytes, calls.len());
        for (index, lookup) in contract.lookups.iter().enumerate() {
            let (places, selections): (Vec<usize>, Vec<&[Value]>) = calls
                .iter()
                .enumerate()
                .filter(|(_, call)| usize::from(call.lookup) == index)
                .map(|(at, call)| (at, &call.arguments[..]))
                .unzip();
            let stored = Stored::new(&contract.tables[lookup.table], &self.target.generation.schema);
            let mut rows = LookupRows::new(places.len(), budget.share(places.len()));
            stored.look_up(&mut self.tx, lookup, &selections, &mut rows).await?;
            budget.spend(rows.bytes());
            places.into_iter().zip(rows.into_rows()).for_each(|(at, rows)| found[at] = rows);
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
        self.find_blocked(keys).await
    }

    async fn failed_and_waiting(&mut self) -> Result<(i64, i64), StoreError> {
        sqlx::query_as(
            "select coalesce(sum(dead), 0), coalesce(sum(parked + waiting), 0) from projector_checkpoint where generation_id = ?",
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
        let mut tables = self.load(writes).await?;
        let contract = self.target.contract.clone();
        let mut effects = vec![(0, 0); contract.writes.len()];
        let mut writers: Writers<'_> = vec![BTreeMap::new(); contract.tables.len()];
        for (event, changes) in &writes.changes {
            let mark = tables.mark();
            let touched = tables
                .apply_event(&contract, changes)
                .map_err(|rejection| StoreError::Rejected { event: *event, rejection })?;
            for (change, rows) in changes.iter().zip(touched) {
                let (all_changes, all_rows) = &mut effects[usize::from(change.statement)];
                *all_changes += 1;
                *all_rows += rows as i64;
            }
            for (table, key) in tables.changed_since(mark) {
                if contract.tables[table].has_lineage {
                    writers[table].insert(key.clone(), writes.positions[*event]);
                }
            }
            tables.forget_undo();
        }
        let statements = self.write_back(&tables, &writers).await?;
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
            Some(shifts) => {
                adjust_counters(&mut *self.tx, self.target.generation.id, shifts).await?;
                shifts.iter().map(|(partition, counts)| (partition, counts)).collect()
            }
        };
        self.count(counts, &effects).await?;
        Ok(statements)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let projection = self.target.generation.projection.clone();
        failpoint::reached(failpoint::BEFORE_COMMIT, &projection);
        self.tx.commit().await.map_err(classify)?;
        failpoint::reached(failpoint::AFTER_COMMIT, &projection);
        Ok(())
    }
}

impl SqliteTransaction {
    pub(super) fn generation(&self) -> i64 {
        self.target.generation.id
    }

    /// Compares and sets the checkpoint of every partition.
    async fn advance(
        &mut self,
        advances: &[Advance],
        record_times: &BTreeMap<Partition, i64>,
    ) -> Result<(), StoreError> {
        let mut elsewhere = Vec::new();
        for advance in advances {
            let totals = advance.counts.totals();
            let moved = sqlx::query(
                "update projector_checkpoint
                 set next_offset = ?5, read = read + ?6, applied = applied + ?7, ignored = ignored + ?8,
                     parked = parked + ?9, dead = dead + ?10, paused = null, updated_at = ?11,
                     recorded_at = coalesce(min(?12, ?11), recorded_at), waiting = waiting + ?13
                 where generation_id = ?1 and topic = ?2 and partition = ?3 and next_offset = ?4",
            )
            .bind(self.generation())
            .bind(&*advance.partition.topic)
            .bind(advance.partition.number)
            .bind(advance.expected)
            .bind(advance.next)
            .bind(totals.read)
            .bind(totals.applied)
            .bind(totals.ignored)
            .bind(totals.parked)
            .bind(totals.dead)
            .bind(now_micros())
            .bind(record_times.get(&advance.partition).copied())
            .bind(totals.waiting)
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
            if moved.rows_affected() != 1 {
                elsewhere.push(advance.partition.clone());
            }
        }
        if elsewhere.is_empty() { Ok(()) } else { Err(StoreError::CheckpointMoved(elsewhere)) }
    }

    /// Loads every stored row that a change of the batch can touch.
    async fn load(&mut self, writes: &Writes<'_>) -> Result<Tables, StoreError> {
        let contract = self.target.contract.clone();
        let mut tables = Tables::new(&contract);
        let mut selections: Vec<HashSet<&[Value]>> = vec![HashSet::new(); contract.writes.len()];
        for change in writes.changes.iter().flat_map(|(_, changes)| changes.iter()) {
            let statement = usize::from(change.statement);
            let by = contract.writes[statement].by.len();
            selections[statement].insert(&change.arguments[..by]);
        }
        for (write, selected) in contract.writes.iter().zip(&selections) {
            if selected.is_empty() {
                continue;
            }
            let values: Vec<&[Value]> = selected.iter().copied().collect();
            let stored = Stored::new(&contract.tables[write.table], &self.target.generation.schema);
            for row in stored.find(&mut self.tx, &write.by, &values).await? {
                tables.load(&contract, write.table, row);
            }
        }
        Ok(tables)
    }

    async fn write_back(&mut self, tables: &Tables, writers: &Writers<'_>) -> Result<u64, StoreError> {
        let mut statements = 0;
        let WriteTarget { contract, digest, .. } = self.target.clone();
        let changed = tables.changed();
        for (index, table) in contract.tables.iter().enumerate() {
            let keys = changed.iter().filter(|(table, _)| *table == index).map(|(_, key)| *key);
            let (mut written, mut deleted) = (Vec::new(), Vec::new());
            for key in keys {
                let Some(row) = tables.row(index, key) else {
                    deleted.push(key);
                    continue;
                };
                let position = writers[index].get(key);
                written.push((row, position.map(|position| Writer { position, digest: &digest })));
            }
            let stored = Stored::new(table, &self.target.generation.schema);
            stored.delete(&mut self.tx, &deleted).await?;
            stored.write(&mut self.tx, &written).await?;
            statements += u64::from(!deleted.is_empty()) + u64::from(!written.is_empty());
        }
        Ok(statements)
    }

    /// Counts outcomes by code and effects by statement.
    async fn count(
        &mut self,
        counts: Vec<(&Partition, &OutcomeCounts)>,
        effects: &[(i64, i64)],
    ) -> Result<(), StoreError> {
        for (partition, counts) in &counts {
            for (outcome, code, events) in counts.outcomes() {
                sqlx::query(
                    "insert into projector_outcome as o (generation_id, topic, partition, outcome, code, events)
                     values (?, ?, ?, ?, ?, ?)
                     on conflict (generation_id, topic, partition, outcome, code)
                     do update set events = o.events + excluded.events",
                )
                .bind(self.generation())
                .bind(&*partition.topic)
                .bind(partition.number)
                .bind(outcome)
                .bind(code)
                .bind(events)
                .execute(&mut *self.tx)
                .await
                .map_err(classify)?;
            }
        }
        let Some((partition, _)) = counts.first() else { return Ok(()) };
        let contract = self.target.contract.clone();
        for (write, (changes, rows)) in
            contract.writes.iter().zip(effects).filter(|(_, (changes, _))| *changes > 0)
        {
            sqlx::query(
                "insert into projector_effect as e (generation_id, topic, partition, statement, changes, rows)
                 values (?, ?, ?, ?, ?, ?)
                 on conflict (generation_id, topic, partition, statement)
                 do update set changes = e.changes + excluded.changes, rows = e.rows + excluded.rows",
            )
            .bind(self.generation())
            .bind(&*partition.topic)
            .bind(partition.number)
            .bind(&write.name)
            .bind(changes)
            .bind(rows)
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        Ok(())
    }
}
