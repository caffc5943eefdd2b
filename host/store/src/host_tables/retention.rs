//! Removes old rows of the host's own tables.

use async_trait::async_trait;
use projector_config::Keep;
use projector_core::generation::Generation;

use super::{Argument, Database, Session};
use crate::error::StoreError;
use crate::retention::{AT_ONCE, LEAST_SECONDS, Pruned, RetentionStore, Warm};

#[async_trait]
impl<D: Database> RetentionStore for D {
    async fn projection_names(&self) -> Result<Vec<String>, StoreError> {
        let names: Vec<(String,)> =
            self.acquire().await?.rows("select name from projector.projection order by name", &[]).await?;
        Ok(names.into_iter().map(|(name,)| name).collect())
    }

    async fn warm_generations(&self, projection: &str) -> Result<Vec<Warm>, StoreError> {
        // The first generation was live before any promotion.
        let sql = format!(
            "select g.id, g.projection, g.number, g.table_schema, coalesce({} > 0, g.readers is not null)
             from projector.generation g where g.projection = $1 and g.role = 'warm'
             order by (select max(d.id) from projector.deployment d where d.projection = g.projection
               and d.generation = g.number and d.action = 'promote' and d.state = 'done') desc nulls last,
               g.number desc",
            D::Connection::array_length("g.views")
        );
        let rows: Vec<WarmRow> = self.acquire().await?.rows(&sql, &[projection.into()]).await?;
        Ok(rows.into_iter().map(warm).collect())
    }

    async fn prune(&self, projection: &str, keep: &Keep) -> Result<Pruned, StoreError> {
        // In a transaction of its own for this name: no component is proposed again while its bytes are removed.
        let mut tx = self.decide(projection).await?;
        let given =
            |kept: i64| -> [Argument; 3] { [projection.into(), kept.into(), i64::from(AT_ONCE).into()] };
        let [operations, deployments, versions] =
            [keep.operations, keep.deployments, keep.versions].map(|kept| given(i64::from(kept.get())));
        let operations = tx.execute(&prune_operations::<D::Connection>(), &operations).await?;
        let deployments = tx.execute(PRUNE_DEPLOYMENTS, &deployments).await?;
        let no_bytes = Argument::Bytes(Some(Vec::new()));
        let versions = [&versions[..], &[no_bytes]].concat();
        let components = tx.execute(&prune_components::<D::Connection>(), &versions).await?;
        D::commit(tx).await?;
        Ok(Pruned { operations, deployments, components })
    }
}

/// Id, projection, number, schema, and whether it has views of its own.
type WarmRow = (i64, String, i32, String, bool);

fn warm((id, projection, number, schema, has_views): WarmRow) -> Warm {
    Warm { generation: Generation { id, projection, number, schema }, has_views }
}

/// Operations `move` stay, because dead letters and parked events name them.
fn prune_operations<S: Session>() -> String {
    format!(
        "delete from projector.operation where id in (
           select o.id from projector.operation o left join projector.generation g on g.id = o.generation_id
           where coalesce(o.projection, g.projection) = $1 and o.action <> 'move' and o.done_at < {}
           order by o.id desc limit $3 offset $2)",
        S::seconds_ago(&LEAST_SECONDS.to_string())
    )
}

/// Deployments beyond the number that is kept are removed, with these exceptions: the last deployment of each version; the
/// deployments that tell which versions an existing generation had, where it began, and when it was live; and the last two
/// promotions, which a rollback reads. The large limit means no limit: SQLite has no `offset` without `limit`.
const PRUNE_DEPLOYMENTS: &str = "
    delete from projector.deployment where id in (
      select old.id from (
        select * from projector.deployment where projection = $1 and state <> 'open'
        order by id desc limit 9223372036854775807 offset $2
      ) as old
      where old.state <> 'done' or not (
        old.digest is not null and not exists (
          select 1 from projector.deployment n where n.projection = $1 and n.digest = old.digest and n.state = 'done'
            and n.id > old.id)
        or exists (select 1 from projector.generation g where g.projection = $1 and g.number = old.generation)
          and (old.start is not null or not exists (
            select 1 from projector.deployment n where n.projection = $1 and n.generation = old.generation
              and n.action = old.action and n.digest is not distinct from old.digest and n.state = 'done'
              and n.id > old.id))
        or old.action = 'promote' and 2 > (
          select count(*) from projector.deployment n where n.projection = $1 and n.action = 'promote'
            and n.state = 'done' and n.id > old.id))
      order by old.id limit $3)";

/// A projection without generations keeps no bytes: only a command can deploy it again, and the command has the bytes.
fn prune_components<S: Session>() -> String {
    format!(
        "update projector.component set bytes = $4, pruned_at = now() where digest in (
           select c.digest from projector.component c
           where c.descriptor ->> 'name' = $1 and c.pruned_at is null
             and not exists (select 1 from projector.generation g where g.active_digest = c.digest)
             and not exists (select 1 from projector.deployment d
               where d.state = 'open' and (c.digest = d.digest or c.digest = d.replaced))
             and not exists (select 1 from projector.deployment d
               join projector.generation g on g.projection = d.projection and g.number = d.generation
               where d.projection = $1 and d.state = 'done' and d.digest = g.active_digest and d.replaced = c.digest)
             and c.digest not in (
               select had.digest from (
                 select digest, id from projector.deployment
                 where projection = $1 and state = 'done' and digest is not null
                 union all
                 select replaced, id from projector.deployment
                 where projection = $1 and state = 'done' and replaced is not null
               ) as had
               where exists (select 1 from projector.generation g where g.projection = $1)
               group by had.digest order by max(had.id) desc limit $2)
             and not exists (select 1 from projector.deployment d
               join projector.generation g on g.projection = d.projection and g.number = d.generation
               join projector.component w on w.digest = d.digest
               where d.projection = $1 and {})
           limit $3)",
        S::has_lineage("w.descriptor")
    )
}
