//! Dead letters, as operators see them, and the results of operations on them.

use std::collections::BTreeMap;

use super::{Argument, Session};
use crate::dead_letters::{DeadLetterFilter, DeadLetterRecord};
use crate::error::StoreError;
use crate::operations::OperationResult;

/// Dead letters, oldest first, at most as many as the filter says.
pub(crate) async fn dead_letters<S: Session>(
    session: &mut S,
    filter: &DeadLetterFilter,
) -> Result<Vec<DeadLetterRecord>, StoreError> {
    let sql = format!(
        "select d.id, g.projection, g.number as generation, d.topic, d.partition, d.\"offset\",
           coalesce(d.timestamp_ms, {recorded_ms}) as timestamp_ms, d.key,
           d.kind, d.code, d.detail, d.db_table, d.db_column, d.db_constraint, d.backtrace,
           coalesce(c.version, '') as version, d.digest, d.attempts, {died_at} as died_at,
           (select (select count(*) from projector.parked p
                    where p.generation_id = b.generation_id and p.key_id = b.key_id)
            from projector.blocked_key b where b.dead_letter_id = d.id) as parked,
           case when $9 then d.headers else {no_headers} end as headers, case when $9 then d.payload end as payload,
           cast(octet_length(d.payload) as bigint) as payload_bytes, d.oversize_bytes
         from projector.dead_letter d
         join projector.generation g on g.id = d.generation_id
         left join projector.component c on c.digest = d.digest
         where ($1 is null or g.projection = $1) and ($2 or {is_one_of})
           and ($3 is null or d.kind = $3) and ($4 is null or d.code = $4)
           and ($5 is null or d.key = $5)
           and ($6 is null or d.died_at >= $6) and ($7 is null or d.died_at <= $7)
         order by d.id limit $8",
        recorded_ms = S::millis("d.recorded_at"),
        died_at = S::micros("d.died_at"),
        no_headers = S::document("'[]'"),
        is_one_of = S::is_one_of("d.id", "$10"),
    );
    let arguments = [
        filter.projection.as_deref().into(),
        filter.ids.is_empty().into(),
        filter.kind.as_deref().into(),
        filter.code.as_deref().into(),
        filter.key.as_deref().into(),
        Argument::Time(filter.since),
        Argument::Time(filter.until),
        filter.most.into(),
        filter.whole.into(),
        filter.ids.as_slice().into(),
    ];
    session.rows(&sql, &arguments).await
}

/// The results of those of these operations that are done, by their numbers.
pub(crate) async fn results<S: Session>(
    session: &mut S,
    operations: &[i64],
) -> Result<BTreeMap<i64, OperationResult>, StoreError> {
    let sql = format!(
        "select id, cast(verdict as text) from projector.operation where {} and done_at is not null",
        S::is_one_of("id", "$1")
    );
    let done: Vec<(i64, Option<String>)> = session.rows(&sql, &[operations.into()]).await?;
    // A result is erased with its event.
    let result = |json: Option<String>| {
        let stored = json.and_then(|json| serde_json::from_str(&json).ok());
        stored.unwrap_or_else(|| OperationResult::of("gone"))
    };
    Ok(done.into_iter().map(|(id, json)| (id, result(json))).collect())
}

/// Stores the result of an operation that wrote no rows.
pub(crate) async fn set_result<S: Session>(
    session: &mut S,
    operation: i64,
    result: &OperationResult,
) -> Result<(), StoreError> {
    let sql = format!(
        "update projector.operation set verdict = {}, done_at = now() where id = $1 and done_at is null",
        S::document("$2")
    );
    let result = serde_json::to_string(result).expect("a result is plain data");
    session.execute(&sql, &[operation.into(), result.into()]).await.map(drop)
}

/// Withdraws those of these operations that no host has begun, and returns them.
pub(crate) async fn withdraw<S: Session>(
    session: &mut S,
    operations: &[i64],
) -> Result<Vec<i64>, StoreError> {
    let sql = format!(
        "delete from projector.operation where {} and done_at is null and verdict is null returning id",
        S::is_one_of("id", "$1")
    );
    let withdrawn: Vec<(i64,)> = session.rows(&sql, &[operations.into()]).await?;
    Ok(withdrawn.into_iter().map(|(id,)| id).collect())
}
