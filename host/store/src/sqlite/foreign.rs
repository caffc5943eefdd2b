//! What depends on a generation's tables and views, and is not the host's.
//!
//! SQLite drops a table or view whatever reads it, takes its triggers along, and deletes rows that refer to it
//! by a foreign key. So the host looks before: it compiles what reads other tables, and compiles it again
//! after the removal, in the same transaction.

use projector_core::generation::GenerationStatus;
use projector_core::views::ViewSet;
use projector_model::names;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::errors::classify;
use crate::StoreError;
use crate::foreign::Readers;
use crate::names::quote;

/// Tables and views that the host made for a generation.
pub(super) struct Own {
    pub(super) views: Vec<String>,
    pub(super) tables: Vec<String>,
}

impl Own {
    pub(super) fn of(standing: &GenerationStatus) -> Self {
        let schema = &standing.generation.schema;
        let tables = standing.layout.tables.iter().map(|table| names::prefixed(schema, &table.name));
        Self { tables: tables.collect(), ..Self::views(&standing.views) }
    }

    /// The views of these sets.
    pub(super) fn views(sets: &[ViewSet]) -> Self {
        let named = |set: &ViewSet| -> Vec<String> {
            set.views.iter().map(|view| names::prefixed(&set.schema, &view.table)).collect()
        };
        Self { views: sets.iter().flat_map(named).collect(), tables: Vec::new() }
    }

    /// The statements that remove it all.
    pub(super) fn removal(&self) -> impl Iterator<Item = String> {
        let views = self.views.iter().map(|view| format!("drop view if exists {}", quote(view)));
        views.chain(self.tables.iter().map(|table| format!("drop table if exists {}", quote(table))))
    }

    fn has(&self, name: &str) -> bool {
        self.views.iter().chain(&self.tables).any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// A view, or a table or view with triggers, that is not of the generation.
struct Other {
    /// As a person knows it.
    words: String,
    sql: String,
    /// What is compiled to find out whether it works, and whether each was.
    probes: Vec<String>,
    worked: Vec<bool>,
}

/// What reads other tables, as it was before a removal.
pub(super) struct Others {
    /// What would go along with the generation's tables and views.
    lost: Vec<String>,
    others: Vec<Other>,
}

impl Others {
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
            others.push(Other { words: format!("{kind} {name}"), sql, probes, worked });
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

    /// What would go along. Dropping a table whose rows others refer to may delete theirs.
    pub(super) fn lost(&self) -> &[String] {
        &self.lost
    }

    /// What does not work any more after the removal. What did not work before either, the host cannot tell
    /// by compiling: it counts if its text has the name of something that was removed.
    pub(super) async fn broken(self, connection: &mut SqliteConnection, own: &Own) -> Vec<String> {
        let mut all = Vec::new();
        for other in self.others {
            let works = compile(connection, &other.probes).await;
            let broken = other.worked.iter().zip(&works).any(|(before, after)| *before && !after);
            let is_named = || mentions(&other.sql, own);
            if broken || (!other.worked.contains(&true) && is_named()) {
                all.push(other.words);
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

/// The statements that make the triggers of a view again: replacing a view takes them along.
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

/// Who reads these views: views and triggers whose text has their names.
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
