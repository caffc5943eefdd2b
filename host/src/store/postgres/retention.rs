//! Removing what is old.

use async_trait::async_trait;

use super::Postgres;
use super::errors::classify;
use crate::config::Keep;
use crate::store::StoreError;
use crate::store::retention::{AT_ONCE, LEAST_SECONDS, Pruned, Retention, Warm, WarmRow, warm};

/// `move`: dead letters and parked events name it.
const PRUNE_OPERATIONS: &str = "
    delete from projector.operation where id in (
      select o.id from projector.operation o left join projector.generation g on g.id = o.generation_id
      where coalesce(o.projection, g.projection) = $1 and o.action <> 'move'
        and o.done_at < now() - $4 * interval '1 second'
      order by o.id desc offset $2 limit $3)";

/// Kept beyond their number: the last one of each version; what tells of a generation that is there which versions it
/// had, where it began, and when it was live; and the last two promotions, which a rollback looks at.
const PRUNE_DEPLOYMENTS: &str = "
    delete from projector.deployment where id in (
      select old.id from (
        select * from projector.deployment where projection = $1 and state <> 'open' order by id desc offset $2
      ) as old
      where old.state <> 'done' or not (
        old.digest is not null and not exists (
          select from projector.deployment n where n.projection = $1 and n.digest = old.digest and n.state = 'done'
            and n.id > old.id)
        or exists (select from projector.generation g where g.projection = $1 and g.number = old.generation)
          and (old.start is not null or not exists (
            select from projector.deployment n where n.projection = $1 and n.generation = old.generation
              and n.action = old.action and n.digest is not distinct from old.digest and n.state = 'done'
              and n.id > old.id))
        or old.action = 'promote' and 2 > (
          select count(*) from projector.deployment n where n.projection = $1 and n.action = 'promote'
            and n.state = 'done' and n.id > old.id))
      order by old.id limit $3)";

/// Of a projection without generations none is kept: only a command brings it back, and has the bytes.
const PRUNE_COMPONENTS: &str = "
    update projector.component set bytes = '', pruned_at = now() where digest in (
      select c.digest from projector.component c
      where c.descriptor ->> 'name' = $1 and c.pruned_at is null
        and not exists (select from projector.generation g where g.active_digest = c.digest)
        and not exists (select from projector.deployment d
          where d.state = 'open' and c.digest in (d.digest, d.replaced))
        and not exists (select from projector.deployment d
          join projector.generation g on g.projection = d.projection and g.number = d.generation
          where d.projection = $1 and d.state = 'done' and d.digest = g.active_digest and d.replaced = c.digest)
        and c.digest not in (
          select had.digest from (
            select digest, id from projector.deployment where projection = $1 and state = 'done' and digest is not null
            union all
            select replaced, id from projector.deployment
            where projection = $1 and state = 'done' and replaced is not null
          ) as had
          where exists (select from projector.generation g where g.projection = $1)
          group by had.digest order by max(had.id) desc limit $2)
        and not exists (select from projector.deployment d
          join projector.generation g on g.projection = d.projection and g.number = d.generation
          join projector.component w on w.digest = d.digest
          where d.projection = $1 and w.descriptor @? '$.tables[*].lineage ? (@ == true)')
      limit $3)";

#[async_trait]
impl Retention for Postgres {
    async fn names(&self) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar("select name from projector.projection order by name")
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(classify)
    }

    async fn warm_generations(&self, projection: &str) -> Result<Vec<Warm>, StoreError> {
        // The first generation was live before any promotion.
        let rows: Vec<WarmRow> = sqlx::query_as(
            "select g.id, g.projection, g.number, g.table_schema,
               coalesce(jsonb_array_length(g.views) > 0, g.readers is not null)
             from projector.generation g where g.projection = $1 and g.role = 'warm'
             order by (select max(d.id) from projector.deployment d where d.projection = g.projection
               and d.generation = g.number and d.action = 'promote' and d.state = 'done') desc nulls last,
               g.number desc",
        )
        .bind(projection)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(rows.into_iter().map(warm).collect())
    }

    async fn prune(&self, projection: &str, keep: &Keep) -> Result<Pruned, StoreError> {
        // Nobody proposes a component again while its bytes are removed.
        let mut tx = self.decide(projection).await?;
        let operations = sqlx::query(PRUNE_OPERATIONS)
            .bind(projection)
            .bind(i64::from(keep.operations.get()))
            .bind(i64::from(AT_ONCE))
            .bind(LEAST_SECONDS)
            .execute(&mut *tx)
            .await
            .map_err(classify)?
            .rows_affected();
        let mut removed = [0, 0];
        let rest = [(PRUNE_DEPLOYMENTS, keep.deployments), (PRUNE_COMPONENTS, keep.versions)];
        for ((statement, kept), removed) in rest.into_iter().zip(&mut removed) {
            *removed = sqlx::query(statement)
                .bind(projection)
                .bind(i64::from(kept.get()))
                .bind(i64::from(AT_ONCE))
                .execute(&mut *tx)
                .await
                .map_err(classify)?
                .rows_affected();
        }
        tx.commit().await?;
        let [deployments, components] = removed;
        Ok(Pruned { operations, deployments, components })
    }
}
