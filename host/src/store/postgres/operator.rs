//! What an operator sees and asks for.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::counters::adjust_counters;
use super::errors::classify;
use super::sessions::Tx;
use super::values::Timestamp;
use super::{BEGIN, Postgres, fence};
use crate::event::Partition;
use crate::ordering::KeyId;
use crate::store::operator::{
    ControlRow, DeadLetterRecord, EXPIRED_AT_ONCE, Filter, GenerationControl, GoneRow, HEARD_AT_ONCE,
    NewOperations, Operation, OperationResult, Operator, Requester, Skipped, generation_controls, gone,
    skipped, verdicts,
};
use crate::store::{Generation, OutcomeCounts, StoreError, add};

#[async_trait]
impl Operator for Postgres {
    async fn control_state(&self) -> Result<Vec<GenerationControl>, StoreError> {
        let rows: Vec<ControlRow> = sqlx::query_as(
            "select g.id, g.projection, g.number, g.table_schema, g.role, g.active_digest,
               (select case when d.action = 'deploy' and d.proven_at is null and d.digest = g.active_digest then d.replaced end
                from projector.deployment d where d.projection = g.projection and d.generation = g.number
                  and d.state = 'done' and d.digest is not null order by d.id desc limit 1) as on_trial_against,
               (p.stopped is not null or g.backfilling) as is_stopped, g.paused, g.resumes,
               coalesce(g.hold_until > now(), false) as is_held, g.hold_at::text as hold_at,
               (select r.id from projector.parked r where (r.generation_id - 0) = g.id and r.ready_ms is not null
                 order by r.id limit 1) is not null as any_ready,
               o.id as operation, o.action, o.topic, o.partition
             from projector.generation g join projector.projection p on p.name = g.projection
             left join (
               select *, row_number() over (partition by generation_id, topic, partition order by id) as place
               from projector.operation where done_at is null
             ) as o on o.generation_id = g.id and o.place <= $1
             order by g.id, o.id",
        )
        .bind(HEARD_AT_ONCE)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        generation_controls(rows)
    }

    async fn dead_letters(&self, filter: &Filter) -> Result<Vec<DeadLetterRecord>, StoreError> {
        sqlx::query_as(
            "select d.id, g.projection, g.number as generation, d.topic, d.partition, d.\"offset\",
               coalesce(d.timestamp_ms, (extract(epoch from d.recorded_at) * 1000)::int8) as timestamp_ms, d.key,
               d.kind, d.code, d.detail, d.db_table, d.db_column, d.db_constraint, d.backtrace,
               coalesce(c.version, '') as version, d.digest, d.attempts,
               (extract(epoch from d.died_at) * 1000000)::int8 as died_at,
               (select (select count(*) from projector.parked p
                        where p.generation_id = b.generation_id and p.key_id = b.key_id)
                from projector.blocked_key b where b.dead_letter_id = d.id) as parked,
               case when $9 then d.headers else '[]'::jsonb end as headers, case when $9 then d.payload end as payload,
               octet_length(d.payload)::int8 as payload_bytes, d.oversize_bytes
             from projector.dead_letter d
             join projector.generation g on g.id = d.generation_id
             left join projector.component c on c.digest = d.digest
             where ($1::text is null or g.projection = $1) and (cardinality($2::int8[]) = 0 or d.id = any($2))
               and ($3::text is null or d.kind = $3) and ($4::text is null or d.code = $4)
               and ($5::bytea is null or d.key = $5)
               and ($6::timestamptz is null or d.died_at >= $6) and ($7::timestamptz is null or d.died_at <= $7)
             order by d.id limit $8",
        )
        .bind(&filter.projection)
        .bind(&filter.ids)
        .bind(&filter.kind)
        .bind(&filter.code)
        .bind(&filter.key)
        .bind(filter.since.map(Timestamp))
        .bind(filter.until.map(Timestamp))
        .bind(filter.most)
        .bind(filter.whole)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)
    }

    async fn ask(&self, asked: &NewOperations) -> Result<BTreeMap<i64, i64>, StoreError> {
        let operations: Vec<(i64, i64)> = sqlx::query_as(
            "insert into projector.operation
               (generation_id, action, dead_letter_id, topic, partition, dry_run, reason, asked_by)
             select d.generation_id, $2, d.id, d.topic, d.partition, $3, $4, $5
             from unnest($1::int8[]) as asked(id) cross join lateral (
               select * from projector.dead_letter d where d.id = asked.id limit 1) as d
             order by d.id returning dead_letter_id, id",
        )
        .bind(&asked.dead_letters)
        .bind(asked.action.as_str())
        .bind(asked.dry_run)
        .bind(&asked.asked.reason)
        .bind(&asked.asked.by)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(operations.into_iter().collect())
    }

    async fn verdicts(&self, operations: &[i64]) -> Result<BTreeMap<i64, OperationResult>, StoreError> {
        let done: Vec<(i64, Option<String>)> = sqlx::query_as(
            "select id, verdict::text from projector.operation where id = any($1) and done_at is not null",
        )
        .bind(operations)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(verdicts(done))
    }

    async fn answer(&self, operation: i64, verdict: &OperationResult) -> Result<(), StoreError> {
        sqlx::query(
            "update projector.operation set verdict = $2::jsonb, done_at = now() where id = $1 and done_at is null",
        )
        .bind(operation)
        .bind(serde_json::to_string(verdict).expect("a verdict is plain data"))
        .execute(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn withdraw(&self, operations: &[i64]) -> Result<Vec<i64>, StoreError> {
        sqlx::query_scalar(
            "delete from projector.operation where id = any($1) and done_at is null and verdict is null
             returning id",
        )
        .bind(operations)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)
    }

    async fn set_running(
        &self,
        generation: &Generation,
        go_on: bool,
        asked: &Requester,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin(BEGIN).await?;
        fence(&mut tx, &[generation.id]).await?;
        sqlx::query(
            "update projector.generation set paused = $2, resumes = resumes + $3::int4::int8,
               halted = case when $2::text is null then null else halted end,
               halted_kind = case when $2::text is null then null else halted_kind end where id = $1",
        )
        .bind(generation.id)
        .bind(if go_on { None } else { asked.reason.as_deref().or(Some("no reason was given")) })
        .bind(i32::from(go_on))
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        record(&mut tx, generation, if go_on { "resume" } else { "pause" }, None, asked, None).await?;
        tx.commit().await
    }

    async fn skip(
        &self,
        generation: &Generation,
        partition: &Partition,
        to: i64,
        asked: &Requester,
    ) -> Result<Skipped, StoreError> {
        let mut tx = self.begin(BEGIN).await?;
        let from: Option<i64> = sqlx::query_scalar(
            "select next_offset from projector.checkpoint
             where generation_id = $1 and topic = $2 and partition = $3 for update",
        )
        .bind(generation.id)
        .bind(&*partition.topic)
        .bind(partition.number)
        .fetch_optional(&mut *tx)
        .await
        .map_err(classify)?;
        let moved = Skipped::over(partition, from, to)?;
        sqlx::query(
            "update projector.checkpoint set next_offset = $4, updated_at = now()
             where generation_id = $1 and topic = $2 and partition = $3",
        )
        .bind(generation.id)
        .bind(&*partition.topic)
        .bind(partition.number)
        .bind(to)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        let mut books = OutcomeCounts::default();
        add(&mut books.skipped, "operator", to - moved.from);
        recount(&mut tx, generation.id, &[(partition.clone(), books)]).await?;
        let verdict = serde_json::to_value(&moved).unwrap_or_default();
        record(&mut tx, generation, "skip", Some(partition), asked, Some(verdict)).await?;
        tx.commit().await?;
        Ok(moved)
    }

    async fn erase(
        &self,
        generation: &Generation,
        key: &[u8],
        ids: &[KeyId],
        asked: &Requester,
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin(BEGIN).await?;
        let ids: Vec<&[u8]> = ids.iter().map(|id| &id.0[..]).collect();
        for statement in [
            // Operations before keys, as those do who let go. What was said of the events is theirs as well.
            "update projector.operation set verdict = null where generation_id = $1
               and (key_id = any($2) or dead_letter_id in
                 (select id from projector.dead_letter where generation_id = $1 and key = $3))",
            // Whoever parks waits, and finds the key free then.
            "delete from projector.blocked_key where generation_id = $1 and (key_id = any($2) or dead_letter_id in
               (select id from projector.dead_letter where generation_id = $1 and key = $3))",
        ] {
            let forget = sqlx::query(statement).bind(generation.id).bind(&ids).bind(key);
            forget.execute(&mut *tx).await.map_err(classify)?;
        }
        let dead: Vec<GoneRow> = sqlx::query_as(
            "delete from projector.dead_letter where generation_id = $1 and key = $2
             returning topic, partition, 'dead', code",
        )
        .bind(generation.id)
        .bind(key)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        let parked: Vec<GoneRow> = sqlx::query_as(
            "delete from projector.parked where generation_id = $1 and key_id = any($2)
             returning topic, partition, case when waits_for is null then 'parked' else 'waiting' end, ''",
        )
        .bind(generation.id)
        .bind(&ids)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        let gone = [dead, parked].concat();
        recount(&mut tx, generation.id, &skipped(&gone, "erased")).await?;
        let verdict = serde_json::json!({ "erased": gone.len() });
        record(&mut tx, generation, "erase", None, asked, Some(verdict)).await?;
        tx.commit().await?;
        Ok(gone.len() as u64)
    }

    async fn expire(
        &self,
        generation: &Generation,
        seconds: i64,
        asked: &Requester,
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin(BEGIN).await?;
        let old: Vec<i64> = sqlx::query_scalar(
            "select d.id from projector.dead_letter d
             left join projector.blocked_key b on b.dead_letter_id = d.id
             where d.generation_id = $1 and d.died_at < now() - $2 * interval '1 second'
               and not exists (select from projector.parked p
                               where p.generation_id = b.generation_id and p.key_id = b.key_id)
             order by d.died_at limit $3",
        )
        .bind(generation.id)
        .bind(seconds)
        .bind(EXPIRED_AT_ONCE)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        if old.is_empty() {
            return Ok(0);
        }
        // The keys first, as those do who park. A key that somebody is at is left to the next time.
        let held: Vec<i64> = sqlx::query_scalar(
            "select dead_letter_id from projector.blocked_key where dead_letter_id = any($1)
             order by key_id for update skip locked",
        )
        .bind(&old)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        // Asked again under the lock: an event may have been parked behind one of them meanwhile.
        sqlx::query(
            "delete from projector.blocked_key b where b.dead_letter_id = any($1)
               and not exists (select from projector.parked p
                               where p.generation_id = b.generation_id and p.key_id = b.key_id)",
        )
        .bind(&held)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        let gone: Vec<GoneRow> = sqlx::query_as(
            "delete from projector.dead_letter where id in (
               select d.id from projector.dead_letter d where d.id = any($1)
                 and not exists (select from projector.blocked_key b where b.dead_letter_id = d.id)
               order by d.id for update skip locked)
             returning topic, partition, 'dead', code",
        )
        .bind(&old)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        if gone.is_empty() {
            return Ok(0);
        }
        recount(&mut tx, generation.id, &skipped(&gone, "expired")).await?;
        let verdict = serde_json::json!({ "expired": gone.len() });
        record(&mut tx, generation, "expire", None, asked, Some(verdict)).await?;
        tx.commit().await?;
        Ok(gone.len() as u64)
    }

    async fn set_impure(&self, generation: &Generation, report: &str) -> Result<(), StoreError> {
        sqlx::query("update projector.generation set impure = $2 where id = $1")
            .bind(generation.id)
            .bind(report)
            .execute(&mut *self.connection().await?)
            .await
            .map_err(classify)?;
        Ok(())
    }

    async fn operations(&self, projection: Option<&str>, most: i64) -> Result<Vec<Operation>, StoreError> {
        sqlx::query_as(
            "select o.id, coalesce(o.projection, g.projection) as projection, coalesce(o.generation, g.number) as generation,
               o.action, o.dead_letter_id, o.topic, o.partition, o.dry_run, o.reason, o.asked_by,
               (extract(epoch from o.asked_at) * 1000000)::int8 as asked_at,
               (extract(epoch from o.done_at) * 1000000)::int8 as done_at, o.verdict
             from projector.operation o left join projector.generation g on g.id = o.generation_id
             where $1::text is null or coalesce(o.projection, g.projection) = $1 order by o.id desc limit $2",
        )
        .bind(projection)
        .bind(most)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)
    }
}

/// Counts events anew, in all and by code.
async fn recount(
    tx: &mut Tx,
    generation: i64,
    shifts: &[(Partition, OutcomeCounts)],
) -> Result<(), StoreError> {
    adjust_counters(tx, generation, shifts).await?;
    for (partition, books) in shifts {
        for (outcome, code, events) in books.outcomes() {
            sqlx::query(
                "insert into projector.outcome as o (generation_id, topic, partition, outcome, code, events)
                 values ($1, $2, $3, $4, $5, $6) on conflict (generation_id, topic, partition, outcome, code)
                 do update set events = o.events + excluded.events",
            )
            .bind(generation)
            .bind(&*partition.topic)
            .bind(partition.number)
            .bind(outcome)
            .bind(code)
            .bind(events)
            .execute(&mut **tx)
            .await
            .map_err(classify)?;
        }
    }
    Ok(())
}

/// Keeps what was asked for and is done. Returns its number.
pub(super) async fn record(
    tx: &mut Tx,
    generation: &Generation,
    action: &str,
    partition: Option<&Partition>,
    asked: &Requester,
    verdict: Option<serde_json::Value>,
) -> Result<i64, StoreError> {
    sqlx::query_scalar(
        "insert into projector.operation
           (generation_id, action, topic, partition, reason, asked_by, done_at, verdict)
         values ($1, $2, $3, $4, $5, $6, now(), $7::jsonb) returning id",
    )
    .bind(generation.id)
    .bind(action)
    .bind(partition.map(|partition| &*partition.topic))
    .bind(partition.map(|partition| partition.number))
    .bind(&asked.reason)
    .bind(&asked.by)
    .bind(verdict.map(|verdict| verdict.to_string()))
    .fetch_one(&mut **tx)
    .await
    .map_err(classify)
}

/// Keeps what was asked for about a generation that is removed next. What is open cannot be done any more.
pub(super) async fn keep_operations(tx: &mut Tx, generation: &Generation) -> Result<(), StoreError> {
    sqlx::query(
        "update projector.operation set generation_id = null, projection = $2, generation = $3,
           done_at = coalesce(done_at, now()), verdict = case when done_at is null then $4::jsonb else verdict end
         where generation_id = $1",
    )
    .bind(generation.id)
    .bind(&generation.projection)
    .bind(generation.number)
    .bind(gone())
    .execute(&mut **tx)
    .await
    .map_err(classify)?;
    Ok(())
}

/// Records who removed a generation, or all of a projection.
pub(super) async fn record_removal(
    tx: &mut Tx,
    (projection, number): (&str, Option<i32>),
    action: &str,
    asked: &Requester,
    verdict: serde_json::Value,
) -> Result<(), StoreError> {
    sqlx::query(
        "insert into projector.operation (projection, generation, action, reason, asked_by, done_at, verdict)
         values ($1, $2, $3, $4, $5, now(), $6::jsonb)",
    )
    .bind(projection)
    .bind(number)
    .bind(action)
    .bind(&asked.reason)
    .bind(&asked.by)
    .bind(verdict.to_string())
    .execute(&mut **tx)
    .await
    .map_err(classify)?;
    Ok(())
}
