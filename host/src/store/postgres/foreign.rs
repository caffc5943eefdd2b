//! What depends on a generation's tables and views, or stands in its schemas, and is not the host's.
//!
//! Postgres itself refuses to drop what something depends on, unless `cascade` is said, which the host never
//! says. This finds out before, so that the refusal names all of it.

use sqlx::postgres::PgConnection;

use super::errors::classify;
use super::tables;
use crate::store::StoreError;
use crate::store::deployments::Standing;
use crate::store::foreign::Readers;

/// Tables (`r`) and views (`v`) that the host made.
#[derive(Default)]
pub(super) struct Own {
    pub(super) schemas: Vec<String>,
    relations: Vec<(String, String, &'static str)>,
}

impl Own {
    /// All that was made for a generation: also tables that a deployment left which came to nothing. Those
    /// are known by the names of their keys.
    pub(super) async fn of(connection: &mut PgConnection, standing: &Standing) -> Result<Self, StoreError> {
        let schema = &standing.generation.schema;
        let mut own = Self::views(standing);
        own.schemas.push(schema.clone());
        let laid = standing.layout.tables.iter().map(|table| table.name.clone());
        let left = tables_with_keys(connection, schema).await?.into_iter();
        let left = left.filter(|(table, key)| *key == tables::key_name(table)).map(|(table, _)| table);
        let mut names: Vec<String> = laid.chain(left).collect();
        names.sort();
        names.dedup();
        own.relations.extend(names.into_iter().map(|name| (schema.clone(), name, "r")));
        Ok(own)
    }

    /// The views that show a generation to readers.
    fn views(standing: &Standing) -> Self {
        let Some(readers) = &standing.readers else { return Self::default() };
        let views = standing.layout.tables.iter().map(|table| (readers.clone(), table.name.clone(), "v"));
        Self { schemas: vec![readers.clone()], relations: views.collect() }
    }

    /// The statements that remove it all, views first. None of them removes what is not the host's.
    pub(super) fn removal(&self) -> Vec<String> {
        let drop = |kind: &'static str, what: &'static str| {
            let of_kind = self.relations.iter().filter(move |(.., own)| *own == kind);
            of_kind.map(move |(schema, name, _)| {
                format!("drop {what} if exists {}", tables::qualified(schema, name))
            })
        };
        drop("v", "view").chain(drop("r", "table")).collect()
    }
}

/// Tables of a schema, and the names of their primary keys.
async fn tables_with_keys(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Vec<(String, String)>, StoreError> {
    sqlx::query_as(
        "select c.relname::text, k.conname::text from pg_class c
         join pg_namespace n on n.oid = c.relnamespace
         join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
         where n.nspname = $1 and c.relkind = 'r'",
    )
    .bind(schema)
    .fetch_all(connection)
    .await
    .map_err(classify)
}

/// Whether the host made a table that stands where it is to make one; `None`: there is no such table.
pub(super) async fn is_own_table(
    connection: &mut PgConnection,
    schema: &str,
    table: &str,
) -> Result<Option<bool>, StoreError> {
    let keys: Vec<Option<String>> = sqlx::query_scalar(
        "select k.conname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
         left join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
         where n.nspname = $1 and c.relname = $2",
    )
    .bind(schema)
    .bind(table)
    .fetch_all(connection)
    .await
    .map_err(classify)?;
    Ok(keys.first().map(|key| key.as_ref().is_some_and(|key| *key == tables::key_name(table))))
}

/// Objects that the host did not make, and that stand in the schemas or depend on the relations: by
/// themselves, or because they depend on such an object. Indexes, triggers, policies, constraints and
/// statistics of the host's own tables are a part of these.
pub(super) async fn objects(connection: &mut PgConnection, own: &Own) -> Result<Vec<String>, StoreError> {
    let [mut schemas, mut names, mut kinds] = [const { Vec::new() }; 3];
    for (schema, name, kind) in &own.relations {
        schemas.push(schema.as_str());
        names.push(name.as_str());
        kinds.push(*kind);
    }
    sqlx::query_scalar(
        "with recursive own as (
           select c.oid, c.reltype, t.typarray
           from unnest($2::text[], $3::text[], $4::text[]) as o(space, name, kind)
           join pg_namespace n on n.nspname = o.space
           join pg_class c on c.relnamespace = n.oid and c.relname = o.name and c.relkind::text = o.kind
           left join pg_type t on t.oid = c.reltype
         ), edges as (
           select case when coalesce(r.ev_class, a.adrelid) is not null then 'pg_class'::regclass::oid
                       else d.classid end as classid,
             coalesce(r.ev_class, a.adrelid, d.objid) as objid, d.refclassid, d.refobjid
           from pg_depend d
           left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
           left join pg_attrdef a on d.classid = 'pg_attrdef'::regclass and a.oid = d.objid
           left join pg_constraint k on d.classid = 'pg_constraint'::regclass and k.oid = d.objid
           left join pg_trigger g on d.classid = 'pg_trigger'::regclass and g.oid = d.objid
           left join pg_policy p on d.classid = 'pg_policy'::regclass and p.oid = d.objid
           left join pg_statistic_ext s on d.classid = 'pg_statistic_ext'::regclass and s.oid = d.objid
           left join pg_index i on d.classid = 'pg_class'::regclass and i.indexrelid = d.objid
           where d.deptype = 'n' and not exists (select from own where own.oid = coalesce(r.ev_class, a.adrelid,
             k.conrelid, g.tgrelid, p.polrelid, s.stxrelid, i.indrelid,
             case when d.classid = 'pg_class'::regclass then d.objid end))
         ), roots (classid, objid) as (
           select 'pg_namespace'::regclass::oid, oid from pg_namespace where nspname = any($1)
           union all select 'pg_class'::regclass::oid, oid from own
           union all select 'pg_type'::regclass::oid, reltype from own
           union all select 'pg_type'::regclass::oid, typarray from own
         ), found (classid, objid) as (
           select e.classid, e.objid from roots f
           join edges e on e.refclassid = f.classid and e.refobjid = f.objid
           union
           select e.classid, e.objid from found f
           join edges e on e.refclassid = f.classid and e.refobjid = f.objid
         )
         select distinct i.type || ' ' || i.identity
         from found, pg_identify_object(found.classid, found.objid, 0) i
         where i.identity is not null order by 1",
    )
    .bind(&own.schemas)
    .bind(schemas)
    .bind(names)
    .bind(kinds)
    .fetch_all(connection)
    .await
    .map_err(classify)
}

/// Who reads a generation's views.
pub(super) async fn readers(
    connection: &mut PgConnection,
    standing: &Standing,
) -> Result<Readers, StoreError> {
    let own = Own::views(standing);
    let views: Vec<&str> = own.relations.iter().map(|(_, name, _)| name.as_str()).collect();
    let grants = sqlx::query_scalar(
        "select lower(a.privilege_type) || ' on ' || n.nspname || '.' || c.relname || ' to '
           || case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee)::text end
         from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) a
         where n.nspname = $1 and c.relname = any($2) and c.relkind = 'v' and a.grantee <> c.relowner
         order by 1",
    )
    .bind(standing.readers.as_deref().unwrap_or_default())
    .bind(views)
    .fetch_all(&mut *connection)
    .await
    .map_err(classify)?;
    let dependants = objects(connection, &own).await?;
    Ok(Readers { schema: standing.readers.clone().unwrap_or_default(), grants, dependants })
}

/// What a person set of a view that is to be replaced.
#[derive(Default, sqlx::FromRow)]
pub(super) struct KnownView {
    /// `security_barrier=true` and its like: replacing a view forgets them.
    pub(super) options: Vec<String>,
    /// The owner, if that is another role than the host's.
    pub(super) owner: Option<String>,
    /// Whether the host may replace it.
    pub(super) ours: bool,
}

pub(super) async fn known_view(
    connection: &mut PgConnection,
    schema: &str,
    view: &str,
) -> Result<Option<KnownView>, StoreError> {
    sqlx::query_as(
        "select coalesce(c.reloptions, '{}') as options,
           nullif(pg_get_userbyid(c.relowner), current_user)::text as owner,
           pg_has_role(c.relowner, 'usage') as ours
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = $1 and c.relname = $2 and c.relkind = 'v'",
    )
    .bind(schema)
    .bind(view)
    .fetch_optional(connection)
    .await
    .map_err(classify)
}
