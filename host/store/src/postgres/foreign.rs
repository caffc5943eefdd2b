//! Foreign objects that depend on a generation's tables and views, or are in its schemas.
//!
//! Why: Postgres refuses to drop something on which other objects depend, since the host never uses `cascade`. But its
//! error names only some of them. This module finds all of them before.

use projector_core::generation::GenerationStatus;
use projector_core::views::ViewSet;
use sqlx::postgres::PgConnection;

use super::errors::classify;
use super::tables;
use crate::error::StoreError;
use crate::readers::Readers;

/// Tables (`r`) and views (`v`) that the host made.
#[derive(Default)]
pub(crate) struct Own {
    pub(super) schemas: Vec<String>,
    relations: Vec<(String, String, &'static str)>,
}

impl Own {
    /// Everything that was made for a generation, with the tables that interrupted deployments left. These are recognized
    /// by the names of their primary keys.
    pub(super) async fn of(
        connection: &mut PgConnection,
        generation: &GenerationStatus,
    ) -> Result<Self, StoreError> {
        let schema = &generation.generation.schema;
        let mut own = Self::views(&generation.views);
        own.schemas.push(schema.clone());
        let laid = generation.layout.tables.iter().map(|table| table.name.clone());
        let left = tables_with_keys(connection, schema).await?.into_iter();
        let left = left.filter(|(table, key)| *key == tables::key_name(table)).map(|(table, _)| table);
        let mut names: Vec<String> = laid.chain(left).collect();
        names.sort();
        names.dedup();
        own.relations.extend(names.into_iter().map(|name| (schema.clone(), name, "r")));
        Ok(own)
    }

    /// The views of these sets.
    pub(super) fn views(sets: &[ViewSet]) -> Self {
        let views = sets
            .iter()
            .flat_map(|set| set.views.iter().map(|view| (set.schema.clone(), view.table.clone(), "v")));
        Self { relations: views.collect(), schemas: sets.iter().map(|set| set.schema.clone()).collect() }
    }

    /// The statements that remove these tables and views, views first. None of them removes a foreign object.
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

/// Whether the host made the table of this name. `None`: there is no such table.
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

/// Foreign objects that are in the schemas, or depend on the relations, directly or through other foreign objects. Indexes,
/// triggers, policies, constraints and statistics of the host's own tables do not count: they are a part of their table.
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

/// The readers of these views.
pub(super) async fn readers(connection: &mut PgConnection, sets: &[ViewSet]) -> Result<Readers, StoreError> {
    let own = Own::views(sets);
    let (schemas, views): (Vec<&str>, Vec<&str>) =
        own.relations.iter().map(|(schema, name, _)| (schema.as_str(), name.as_str())).unzip();
    let grants = sqlx::query_scalar(
        "select lower(a.privilege_type) || ' on ' || n.nspname || '.' || c.relname || ' to '
           || case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee)::text end
         from unnest($1::text[], $2::text[]) as o(space, name)
         join pg_namespace n on n.nspname = o.space
         join pg_class c on c.relnamespace = n.oid and c.relname = o.name and c.relkind = 'v',
           aclexplode(c.relacl) a
         where a.grantee <> c.relowner
         order by 1",
    )
    .bind(schemas)
    .bind(views)
    .fetch_all(&mut *connection)
    .await
    .map_err(classify)?;
    let dependants = objects(connection, &own).await?;
    Ok(Readers { schema: own.schemas.join(", "), grants, dependants })
}

/// The statements that give the views in `schema` the rights that the views of the same names in the schema `like` have: on
/// the schema, on the views, and on their columns. The owner of a view gets a right too, if it is another role. Rights on
/// a schema that another role owns are left to that role.
pub(super) async fn rights(
    connection: &mut PgConnection,
    like: &str,
    schema: &str,
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar(
        "with views as (
           select l.oid as old, l.relowner, l.relacl, v.oid as new, format('%I.%I', $2::text, v.relname) as name
           from pg_class l join pg_class v on v.relname = l.relname and v.relkind = 'v'
           where l.relnamespace = to_regnamespace(quote_ident($1::text)) and l.relkind = 'v'
             and v.relnamespace = to_regnamespace(quote_ident($2::text))
         ), held (what, grantee, is_grantable) as (
           select 'usage on schema ' || quote_ident($2::text), a.grantee, a.is_grantable
           from pg_namespace l join pg_namespace n on n.nspname = $2::text, aclexplode(l.nspacl) a
           where l.nspname = $1::text and a.privilege_type = 'USAGE' and a.grantee <> l.nspowner
             and pg_has_role(n.nspowner, 'usage')
           union all
           select lower(a.privilege_type) || ' on ' || name, a.grantee, a.is_grantable
           from views, aclexplode(relacl) a where a.grantee <> relowner
           union all
           select 'select on ' || name, relowner, false from views
           where pg_get_userbyid(relowner) <> current_user
           union all
           select format('%s (%I) on %s', lower(a.privilege_type), o.attname, name), a.grantee, a.is_grantable
           from views join pg_attribute o on o.attrelid = old
           join pg_attribute t on t.attrelid = new and t.attname = o.attname, aclexplode(o.attacl) a
         )
         select format('grant %s to %s%s', what,
           case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end,
           case when is_grantable then ' with grant option' else '' end)
         from held where grantee = 0 or pg_get_userbyid(grantee) <> current_user",
    )
    .bind(like)
    .bind(schema)
    .fetch_all(connection)
    .await
    .map_err(classify)
}

/// What a person changed of a view that is to be replaced.
#[derive(Default)]
pub(super) struct KnownView {
    /// Such as `security_barrier=true`. Replacing a view without naming its options removes them.
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
    let found: Option<(Vec<String>, Option<String>, bool)> = sqlx::query_as(
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
    .map_err(classify)?;
    Ok(found.map(|(options, owner, ours)| KnownView { options, owner, ours }))
}
