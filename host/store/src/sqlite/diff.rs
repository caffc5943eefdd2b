//! A snapshot on a connection of its own, beside the writer's, in which generations are compared.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::event::Partition;
use projector_core::generation::Generation;
use projector_model::contract::Table;
use projector_model::{Contract, Type, Value};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::documents::DOCUMENT;
use super::errors::classify;
use super::rows;
use super::tables::qualified;
use crate::compare::{self, Comparison, Reader};
use crate::diff::{Diff, DiffRequest, Snapshot};
use crate::error::StoreError;
use crate::names::quote;

pub(super) struct ConnectionSnapshot(SqliteConnection);

impl ConnectionSnapshot {
    pub(super) async fn begin(mut connection: SqliteConnection) -> Result<Self, StoreError> {
        // A transaction sees what was committed at its first query.
        for statement in ["begin", "select id from projector_store"] {
            sqlx::query(statement).execute(&mut connection).await.map_err(classify)?;
        }
        Ok(Self(connection))
    }
}

#[async_trait]
impl Snapshot for ConnectionSnapshot {
    async fn checkpoints(&mut self, generation: &Generation) -> Result<Vec<(Partition, i64)>, StoreError> {
        compare::checkpoints(self, generation).await
    }

    async fn row_counts(
        &mut self,
        generation: &Generation,
        contract: &Contract,
    ) -> Result<BTreeMap<String, i64>, StoreError> {
        compare::row_counts(self, generation, contract).await
    }

    async fn diff(&mut self, request: &DiffRequest<'_>) -> Result<Diff, StoreError> {
        compare::diff(self, request).await
    }
}

#[async_trait]
impl Reader for ConnectionSnapshot {
    fn table(&self, generation: &Generation, table: &Table) -> String {
        qualified(&generation.schema, &table.name)
    }

    fn own_table(&self, name: &str) -> String {
        quote(&format!("projector_{name}"))
    }

    fn operand(&self, column: &str, ty: Type) -> String {
        match ty {
            Type::Json => format!("{column} collate {DOCUMENT}"),
            _ => column.to_owned(),
        }
    }

    fn selected(&self, column: &str, _: Type) -> String {
        column.to_owned()
    }

    /// A left join, because SQLite would write the keys of a full join to a temporary file. The number of rows that only the
    /// new table has follows from its count. The condition on tombstones is a part of the join condition: SQLite would
    /// search a subquery row by row.
    fn counts(&self, sql: &Comparison<'_>) -> String {
        let Comparison { old, new, mark, same_key, old_is_alive, new_is_alive, .. } = sql;
        let both = format!("n.{mark} is not null");
        format!(
            "select count(*), (select count(*) from {new} as n where {new_is_alive}), count(n.{mark}), {}
             from {old} as o left join {new} as n on {same_key} and {new_is_alive} where {old_is_alive}",
            sql.differing_counts(&both)
        )
    }

    async fn rows(&mut self, sql: String, types: &[Type]) -> Result<Vec<Vec<Value>>, StoreError> {
        let rows = sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_all(&mut self.0)
            .await
            .map_err(classify)?;
        let values = |row| types.iter().enumerate().map(|(at, ty)| rows::decode(row, at, *ty)).collect();
        rows.iter().map(values).collect::<Result<_, sqlx::Error>>().map_err(StoreError::drift)
    }
}
