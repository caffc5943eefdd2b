//! Dead letters behind which no event waits, many in one transaction: each step is one statement for all of them.
//!
//! Invariants: locks are taken in the same order as for a single dead letter: operations, keys, dead letters. Each key and
//! each dead letter is looked up by itself (`cross join lateral … limit 1`): for a list of them, the planner may read all
//! keys or dead letters of the generation.

use std::collections::{BTreeMap, BTreeSet};

use projector_core::batch::BatchLimits;

use super::errors::classify;
use super::transaction::PostgresTransaction;
use crate::error::StoreError;
use crate::host_tables::stored_events::{DeadLetterRow, key_id};
use crate::operations::DeadLetterAction;
use crate::release::{LoneDeadLetter, LoneResults, RetryResult};

impl PostgresTransaction {
    pub(super) async fn find_lone_dead_letters(
        &mut self,
        operations: &[i64],
        limits: BatchLimits,
    ) -> Result<Vec<LoneDeadLetter>, StoreError> {
        let open: Vec<(i64, String, i64)> = sqlx::query_as(
            "select id, action, dead_letter_id from projector.operation
             where id = any($1) and generation_id = $2 and done_at is null and verdict is null and not dry_run
               and dead_letter_id is not null
             order by id limit $3 for update skip locked",
        )
        .bind(operations)
        .bind(self.generation())
        .bind(limits.events.max(1) as i64)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(classify)?;
        // Of several operations on one dead letter, the first.
        let mut claimed: BTreeMap<i64, (i64, DeadLetterAction)> = BTreeMap::new();
        for (operation, action, dead_letter) in open {
            if let Some(action) = DeadLetterAction::from_word(&action) {
                claimed.entry(dead_letter).or_insert((operation, action));
            }
        }
        let dead_letters: Vec<i64> = claimed.keys().copied().collect();
        let keys: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "with blocked as materialized (
               select b.key_id from unnest($1::int8[]) as l(id) cross join lateral (
                 select b.key_id from projector.blocked_key b where b.dead_letter_id = l.id limit 1) as b
               order by b.key_id)
             select b.dead_letter_id, b.key_id from blocked cross join lateral (
               select b.dead_letter_id, b.key_id from projector.blocked_key b
               where b.generation_id = $2 and b.key_id = blocked.key_id and b.dead_letter_id = any($1)
               limit 1 for update) as b",
        )
        .bind(&dead_letters)
        .bind(self.generation())
        .fetch_all(&mut *self.tx)
        .await
        .map_err(classify)?;
        // Read after the keys are locked: from here on, no event is parked behind one of these dead letters.
        let waited_for: Vec<Vec<u8>> = sqlx::query_scalar(
            "select k.key_id from unnest($2::bytea[]) as k(key_id) cross join lateral (
               select from projector.parked p where p.generation_id = $1 and p.key_id = k.key_id limit 1) as p",
        )
        .bind(self.generation())
        .bind(keys.iter().map(|(_, key)| &key[..]).collect::<Vec<&[u8]>>())
        .fetch_all(&mut *self.tx)
        .await
        .map_err(classify)?;
        let waited_for: BTreeSet<Vec<u8>> = waited_for.into_iter().collect();
        for (dead_letter, key) in &keys {
            if waited_for.contains(key) {
                claimed.remove(dead_letter);
            }
        }
        let keys: BTreeMap<i64, Vec<u8>> = keys.into_iter().collect();
        let rows: Vec<DeadLetterRow> = sqlx::query_as(
            "select d.* from (
               select l.id, sum(w.bytes) over (order by l.id) - w.bytes as before
               from unnest($1::int8[]) as l(id) cross join lateral (
                 select coalesce(octet_length(w.payload), 0) as bytes from projector.dead_letter w
                 where w.id = l.id limit 1) as w
             ) as l cross join lateral (
               select id, topic, partition, \"offset\",
                 coalesce(timestamp_ms, (extract(epoch from recorded_at) * 1000)::int8) as timestamp_ms, key, payload,
                 headers::text as headers, oversize_bytes, moved_by, topic_name, code
               from projector.dead_letter d where d.id = l.id limit 1 for update) as d
             where l.before < $2",
        )
        .bind(claimed.keys().copied().collect::<Vec<i64>>())
        .bind(limits.bytes.max(1) as i64)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(classify)?;
        let topics = self.target.topics.clone();
        let lone = rows.into_iter().filter_map(|DeadLetterRow { event, code }| {
            let (operation, action) = *claimed.get(&event.id)?;
            let key = keys.get(&event.id).and_then(|key| key_id(key));
            let (dead_letter, partition) = event.stored(&topics);
            Some(LoneDeadLetter { operation, action, dead_letter, partition, code, key })
        });
        Ok(lone.collect())
    }

    pub(super) async fn write_lone_results(&mut self, lone: &LoneResults<'_>) -> Result<(), StoreError> {
        let results = || lone.results.iter();
        let gone = || results().filter(|result| matches!(result.retry, RetryResult::Gone));
        sqlx::query(
            "delete from projector.blocked_key where ctid = any(array(
               select b.ctid from unnest($2::bytea[]) as k(key_id) cross join lateral (
                 select b.ctid from projector.blocked_key b
                 where b.generation_id = $1 and b.key_id = k.key_id limit 1) as b))",
        )
        .bind(self.generation())
        .bind(gone().filter_map(|result| result.key.as_ref().map(|key| &key.0[..])).collect::<Vec<_>>())
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        sqlx::query("delete from projector.dead_letter where id = any($1)")
            .bind(gone().map(|result| result.dead_letter).collect::<Vec<i64>>())
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        let failed: Vec<_> = results()
            .filter_map(|result| match result.retry {
                RetryResult::Failed(failure) => Some((result.dead_letter, failure)),
                RetryResult::Gone => None,
            })
            .collect();
        if !failed.is_empty() {
            let failures = || failed.iter().map(|(_, failure)| failure);
            let refusals = || failures().map(|failure| failure.refusal.as_deref());
            sqlx::query(
                "update projector.dead_letter d set digest = $1, kind = u.kind, code = u.code, detail = u.detail,
                   backtrace = u.backtrace, db_table = u.db_table, db_column = u.db_column,
                   db_constraint = u.db_constraint, attempts = d.attempts + 1
                 from unnest($2::int8[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                   $9::text[]) as u(id, kind, code, detail, backtrace, db_table, db_column, db_constraint)
                 where d.id = u.id",
            )
            .bind(&*self.target.digest)
            .bind(failed.iter().map(|(dead_letter, _)| *dead_letter).collect::<Vec<i64>>())
            .bind(failures().map(|failure| failure.kind.as_str()).collect::<Vec<_>>())
            .bind(failures().map(|failure| failure.code.as_str()).collect::<Vec<_>>())
            .bind(failures().map(|failure| failure.detail.as_str()).collect::<Vec<_>>())
            .bind(failures().map(|failure| failure.backtrace.as_deref()).collect::<Vec<_>>())
            .bind(refusals().map(|refusal| refusal?.table.as_deref()).collect::<Vec<_>>())
            .bind(refusals().map(|refusal| refusal?.column.as_deref()).collect::<Vec<_>>())
            .bind(refusals().map(|refusal| refusal?.constraint.as_deref()).collect::<Vec<_>>())
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        let json = |result| serde_json::to_string(result).expect("a result is plain data");
        sqlx::query(
            "update projector.operation o set verdict = u.verdict::jsonb, key_id = u.key_id, done_at = now()
             from unnest($1::int8[], $2::text[], $3::bytea[]) as u(id, verdict, key_id) where o.id = u.id",
        )
        .bind(results().map(|result| result.operation).collect::<Vec<i64>>())
        .bind(results().map(|result| json(&result.result)).collect::<Vec<String>>())
        .bind(results().map(|result| result.key.as_ref().map(|key| &key.0[..])).collect::<Vec<_>>())
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        Ok(())
    }
}
