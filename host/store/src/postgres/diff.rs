//! A snapshot in a dedicated session, in which generations are compared.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::event::Partition;
use projector_core::generation::Generation;
use projector_model::contract::Table;
use projector_model::{Contract, Type, Value};
use sqlx::AssertSqlSafe;

use super::errors::classify;
use super::sessions::Session;
use super::tables::qualified;
use super::{BEGIN_SNAPSHOT, values};
use crate::compare::{self, Comparison, Reader};
use crate::diff::{Diff, DiffRequest, Snapshot};
use crate::error::StoreError;

pub(super) struct SessionSnapshot(Session);

/// Lifts the session's time limits: a comparison may take long. The server still ends the session soon after its host is
/// gone. A transaction sees what was committed at its first query, which is this one.
const LIFT_TIME_LIMITS: &str = "
    select set_config(name, case name when 'client_connection_check_interval' then '5s' else '0' end, true)
    from pg_settings where name in ('statement_timeout', 'transaction_timeout',
      'idle_in_transaction_session_timeout', 'client_connection_check_interval')";

impl SessionSnapshot {
    pub(super) async fn begin(mut session: Session) -> Result<Self, StoreError> {
        for statement in [BEGIN_SNAPSHOT, LIFT_TIME_LIMITS] {
            sqlx::query(statement).execute(&mut *session).await.map_err(classify)?;
        }
        Ok(Self(session))
    }
}

#[async_trait]
impl Snapshot for SessionSnapshot {
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
impl Reader for SessionSnapshot {
    fn table(&self, generation: &Generation, table: &Table) -> String {
        qualified(&generation.schema, &table.name)
    }

    fn own_table(&self, name: &str) -> String {
        qualified("projector", name)
    }

    fn operand(&self, column: &str, _: Type) -> String {
        column.to_owned()
    }

    fn selected(&self, column: &str, ty: Type) -> String {
        values::selected(column, ty)
    }

    /// A full join is always a merge join or a hash join, and never a nested loop, even if Postgres' statistics are wrong.
    /// Which of the two is Postgres' choice: where rows are stored in another order than their keys, a hash join is faster.
    /// What does not fit into `work_mem` is written to temporary files.
    fn counts(&self, sql: &Comparison<'_>) -> String {
        let Comparison { old, new, mark, same_key, old_is_alive, new_is_alive, .. } = sql;
        let both = format!("o.{mark} is not null and n.{mark} is not null");
        format!(
            "select count(o.{mark}), count(n.{mark}), count(*) filter (where {both}), {}
             from (select * from {old} as o where {old_is_alive}) as o
             full join (select * from {new} as n where {new_is_alive}) as n on {same_key}",
            sql.differing_counts(&both)
        )
    }

    async fn rows(&mut self, sql: String, types: &[Type]) -> Result<Vec<Vec<Value>>, StoreError> {
        let rows = sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_all(&mut *self.0)
            .await
            .map_err(classify)?;
        let values = |row| types.iter().enumerate().map(|(at, ty)| values::decode(row, at, *ty)).collect();
        rows.iter().map(values).collect::<Result<_, sqlx::Error>>().map_err(StoreError::drift)
    }
}
