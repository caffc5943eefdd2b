//! What an error of a planned statement says about the event that caused it.

use projector_core::event_failure::DatabaseRefusal;
use projector_core::planner::Step;
use projector_model::change::codes;
use projector_model::descriptor::Operation;
use projector_model::{Contract, Rejection};

use super::errors::classify;
use super::tables;
use crate::error::StoreError;

/// What an error of a planned statement means for the batch. A sum that does not fit its column is a rejection that names
/// the column, and the event if only one event can be the cause. `one_event`: all changes of the batch are of one event.
pub(super) fn refused(contract: &Contract, step: &Step, one_event: bool, error: sqlx::Error) -> StoreError {
    let overflow =
        error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "22003");
    let too_large =
        error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "54000");
    match classify(error) {
        StoreError::Data(refusal) if too_large => {
            StoreError::Data(too_long_for_an_index(contract, step, refusal))
        }
        StoreError::Data(_) if overflow && (one_event || step.changes == 1) => {
            let write = &contract.writes[usize::from(step.statement)];
            let table = &contract.tables[write.table];
            let sums: Vec<String> = write
                .set
                .iter()
                .filter(|(_, operation)| *operation == Operation::Add)
                .map(|(column, _)| &table.columns[*column])
                .map(|column| format!("{}.{}: the sum is beyond {}", table.name, column.name, column.ty))
                .collect();
            StoreError::Rejected {
                event: step.rows[0].event,
                rejection: Rejection::new(codes::OVERFLOW, sums.join(", or ")),
            }
        }
        error => error,
    }
}

/// Adds table, columns and index to the message, because Postgres does not always name them.
fn too_long_for_an_index(contract: &Contract, step: &Step, refusal: DatabaseRefusal) -> DatabaseRefusal {
    let table = contract.writes[usize::from(step.statement)].table;
    let (declared, table) = (&contract.descriptor.tables[table], &contract.tables[table]);
    let key: Vec<&str> = table.column_names(&table.key).collect();
    let indexes = tables::indexed(&table.name, &key, &declared.indexes);
    let meant: Vec<_> = match &refusal.constraint {
        Some(name) => indexes.iter().filter(|(known, _)| known == name).collect(),
        None => indexes.iter().collect(),
    };
    let columns: Vec<&str> =
        meant.iter().flat_map(|(_, columns)| columns.iter().map(String::as_str)).collect();
    let names: Vec<&str> = meant.iter().map(|(name, _)| name.as_str()).collect();
    let message = format!(
        "{}: a value of {} is too long for the index {} ({}): shorten it, or leave the column out of the index",
        table.name,
        columns.join(" or "),
        names.join(" or "),
        refusal.message
    );
    let only = |all: &[&str]| match all {
        [only] => Some((*only).to_owned()),
        _ => None,
    };
    DatabaseRefusal {
        message,
        table: Some(table.name.clone()),
        column: only(&columns),
        constraint: refusal.constraint.or_else(|| only(&names)),
    }
}

/// Values that fit their columns can always be encoded, so a retry would not help.
pub(super) fn encoding(error: sqlx::error::BoxDynError) -> StoreError {
    StoreError::Unusable(format!("a value cannot be encoded: {error}"))
}
