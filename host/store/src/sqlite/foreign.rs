//! Foreign objects that depend on a generation's tables and views.
//!
//! Why: SQLite drops a table or view even if other objects read it, removes its triggers, and deletes rows that refer to it
//! by a foreign key. So the host compiles all foreign views and triggers before a removal, and again after it, in the same
//! transaction: one that worked before and does not work afterwards depends on what was removed.

use projector_core::generation::GenerationStatus;
use projector_core::views::ViewSet;
use projector_model::names;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::errors::classify;
use crate::error::StoreError;
use crate::names::quote;
use crate::readers::Readers;

/// Tables and views that the host made for a generation.
pub(crate) struct Own {
    pub(super) views: Vec<String>,
    pub(super) tables: Vec<String>,
}

impl Own {
    pub(super) fn of(generation: &GenerationStatus) -> Self {
        let schema = &generation.generation.schema;
        let tables = generation.layout.tables.iter().map(|table| names::prefixed(schema, &table.name));
        Self { tables: tables.collect(), ..Self::views(&generation.views) }
    }

    /// The views of these sets.
    pub(super) fn views(sets: &[ViewSet]) -> Self {
        let named = |set: &ViewSet| -> Vec<String> {
            set.views.iter().map(|view| names::prefixed(&set.schema, &view.table)).collect()
        };
        Self { views: sets.iter().flat_map(named).collect(), tables: Vec::new() }
    }

    /// The statements that remove these tables and views.
    pub(super) fn removal(&self) -> impl Iterator<Item = String> {
        let views = self.views.iter().map(|view| format!("drop view if exists {}", quote(view)));
        views.chain(self.tables.iter().map(|table| format!("drop table if exists {}", quote(table))))
    }

    fn has(&self, name: &str) -> bool {
        self.views.iter().chain(&self.tables).any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// A foreign view, or a foreign trigger.
struct Other {
    /// Its kind and its name, for a person.
    name: String,
    sql: String,
    /// The statements that are compiled to find out whether it works, and whether each of them was compiled.
    probes: Vec<String>,
    worked: Vec<bool>,
}

/// The foreign objects as they were before a removal.
pub(crate) struct Others {
    /// Objects that would be removed together with the generation's tables and views.
    lost: Vec<String>,
    others: Vec<Other>,
}

impl Others {
    /// `own`: what is to be removed.
    pub(super) async fn look(connection: &mut SqliteConnection, own: &Own) -> Result<Self, StoreError> {
        let (mut lost, mut others) = (Vec::new(), Vec::new());
        let rows: Vec<(String, String, String, String)> = sqlx::query_as(
            "select type, name, tbl_name, coalesce(sql, '') from sqlite_master where type in ('view', 'trigger')",
        )
        .fetch_all(&mut *connection)
        .await
        .map_err(classify)?;
        for (kind, name, on, sql) in rows {
            let probes = match kind.as_str() {
                "trigger" if own.has(&on) => {
                    lost.push(format!("trigger {name} on {on}"));
                    continue;
                }
                "trigger" => writes(connection, &on).await?,
                _ if own.has(&name) => continue,
                _ => vec![format!("explain select * from {}", quote(&name))],
            };
            let worked = compile(connection, &probes).await;
            others.push(Other { name: format!("{kind} {name}"), sql, probes, worked });
        }
        let referring: Vec<(String, String)> = sqlx::query_as(
            "select distinct m.name, f.\"table\" from sqlite_master m, pragma_foreign_key_list(m.name) f
             where m.type = 'table'",
        )
        .fetch_all(connection)
        .await
        .map_err(classify)?;
        let referring = referring.into_iter().filter(|(name, to)| own.has(to) && !own.has(name));
        lost.extend(referring.map(|(name, to)| format!("table {name}, by its foreign key to {to}")));
        Ok(Self { lost, others })
    }

    /// Objects that the removal would remove as well, and tables whose rows it may delete, because of a foreign key.
    pub(super) fn lost(&self) -> &[String] {
        &self.lost
    }

    /// The objects that the removal has broken. Of an object that did not work before, compiling says nothing: it counts if
    /// its text contains the name of something that was removed.
    pub(super) async fn broken(self, connection: &mut SqliteConnection, own: &Own) -> Vec<String> {
        let mut all = Vec::new();
        for other in self.others {
            let works = compile(connection, &other.probes).await;
            let is_broken = other.worked.iter().zip(&works).any(|(before, after)| *before && !after);
            let is_named = || mentions(&other.sql, own);
            if is_broken || (!other.worked.contains(&true) && is_named()) {
                all.push(other.name);
            }
        }
        all
    }
}

fn mentions(sql: &str, own: &Own) -> bool {
    let sql = sql.to_ascii_lowercase();
    own.views.iter().chain(&own.tables).any(|name| sql.contains(&name.to_ascii_lowercase()))
}

/// Statements that compile every trigger of a table or view.
async fn writes(connection: &mut SqliteConnection, table: &str) -> Result<Vec<String>, StoreError> {
    let columns: Vec<String> = sqlx::query_scalar("select name from pragma_table_info(?)")
        .bind(table)
        .fetch_all(connection)
        .await
        .map_err(classify)?;
    let set: Vec<String> = columns.iter().map(|column| format!("{0} = {0}", quote(column))).collect();
    let table = quote(table);
    Ok(vec![
        format!("explain insert into {table} default values"),
        format!("explain delete from {table}"),
        format!("explain update {table} set {}", set.join(", ")),
    ])
}

/// Whether each statement can be compiled.
async fn compile(connection: &mut SqliteConnection, statements: &[String]) -> Vec<bool> {
    let mut compiled = Vec::new();
    for statement in statements {
        let query = sqlx::query(AssertSqlSafe(statement.clone())).persistent(false);
        compiled.push(query.fetch_all(&mut *connection).await.is_ok());
    }
    compiled
}

/// The statements that create the triggers of a view again, because replacing a view removes them.
pub(super) async fn triggers(
    connection: &mut SqliteConnection,
    view: &str,
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar(
        "select sql from sqlite_master where type = 'trigger' and tbl_name = ? collate nocase and sql is not null",
    )
    .bind(view)
    .fetch_all(connection)
    .await
    .map_err(classify)
}

/// The readers of these views: views and triggers whose text contains the names of the views.
pub(super) async fn readers(
    connection: &mut SqliteConnection,
    sets: &[ViewSet],
) -> Result<Readers, StoreError> {
    let own = Own::views(sets);
    let prefixes: Vec<&str> = sets.iter().map(|set| &*set.schema).collect();
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "select type, name, coalesce(sql, '') from sqlite_master where type in ('view', 'trigger') order by name",
    )
    .fetch_all(connection)
    .await
    .map_err(classify)?;
    let dependants = rows.into_iter().filter(|(_, name, sql)| !own.has(name) && mentions(sql, &own));
    Ok(Readers {
        schema: prefixes.join(", "),
        grants: Vec::new(),
        dependants: dependants.map(|(kind, name, _)| format!("{kind} {name}")).collect(),
    })
}
