//! Calls from a plugin, held against the declarations that they name.
//!
//! Why: a plugin can answer with any indices and values. After this check, a change or lookup call names a declaration, and
//! every store can hold its arguments: see [`Value::fit`].

use crate::change::{Change, LookupCall, Rejection, codes};
use crate::contract::{Contract, Table};
use crate::value::Value;

impl Contract {
    /// Checks a change against the statement that it calls, and brings decimals to their columns' scale.
    ///
    /// The statement must be declared, every argument must be there and fit its column, and no value that selects rows
    /// may be null. The rejection names the column.
    pub fn fit(&self, change: &mut Change) -> Result<(), Rejection> {
        let write = self
            .writes
            .get(usize::from(change.statement))
            .ok_or_else(|| undeclared("statement", change.statement, self.writes.len()))?;
        let call = Call { name: &write.name, table: &self.tables[write.table] };
        call.has_arguments(change.arguments.len(), write.argument_count())?;
        for (at, (column, value)) in write.argument_columns().zip(&mut change.arguments).enumerate() {
            call.fit(column, value)?;
            let selects = at < write.by.len() || write.guard.is_some_and(|guard| guard.argument == at);
            if selects {
                call.is_not_null(column, value)?;
            } else {
                call.may_be_null(column, value)?;
            }
        }
        Ok(())
    }

    /// Checks a lookup call against its lookup, in the same way.
    pub fn fit_lookup(&self, call: &mut LookupCall) -> Result<(), Rejection> {
        let lookup = self
            .lookups
            .get(usize::from(call.lookup))
            .ok_or_else(|| undeclared("lookup", call.lookup, self.lookups.len()))?;
        let checked = Call { name: &lookup.name, table: &self.tables[lookup.table] };
        checked.has_arguments(call.arguments.len(), lookup.by.len())?;
        for (column, value) in lookup.by.iter().zip(&mut call.arguments) {
            checked.fit(*column, value)?;
            checked.is_not_null(*column, value)?;
        }
        Ok(())
    }

    /// The rows that a lookup call asks for, as text for a person: `order_search with order_id = "o1"`.
    pub fn selected_by(&self, call: &LookupCall) -> String {
        let lookup = &self.lookups[usize::from(call.lookup)];
        let table = &self.tables[lookup.table];
        format!("{} with {}", table.name, selection(table, &lookup.by, &call.arguments))
    }
}

/// What selects rows, as text for a person: `order_id = "o1" and line = 2`.
pub(crate) fn selection(table: &Table, columns: &[usize], values: &[Value]) -> String {
    let pairs = table.column_names(columns).zip(values);
    pairs.map(|(column, value)| format!("{column} = {value}")).collect::<Vec<_>>().join(" and ")
}

fn undeclared(what: &str, index: u16, declared: usize) -> Rejection {
    Rejection::new(
        codes::INVALID_CHANGE,
        format!("{what} {index} was called, and only {declared} are declared"),
    )
}

/// A call of a declared statement or lookup, whose arguments are being checked.
struct Call<'c> {
    /// The name of the statement or lookup.
    name: &'c str,
    table: &'c Table,
}

impl Call<'_> {
    fn has_arguments(&self, given: usize, declared: usize) -> Result<(), Rejection> {
        if given == declared {
            return Ok(());
        }
        Err(Rejection::new(
            codes::INVALID_CHANGE,
            format!("{}: {given} arguments given, {declared} declared", self.name),
        ))
    }

    fn fit(&self, column: usize, value: &mut Value) -> Result<(), Rejection> {
        value
            .fit(self.table.columns[column].ty)
            .map_err(|problem| self.rejection(codes::INVALID_VALUE, column, &problem))
    }

    fn is_not_null(&self, column: usize, value: &Value) -> Result<(), Rejection> {
        match value.is_null() {
            true => Err(self.rejection(codes::NULL_KEY, column, "null selects no row")),
            false => Ok(()),
        }
    }

    fn may_be_null(&self, column: usize, value: &Value) -> Result<(), Rejection> {
        if value.is_null() && !self.table.columns[column].nullable {
            return Err(self.rejection(
                codes::INVALID_VALUE,
                column,
                "null given, and the column is not nullable",
            ));
        }
        Ok(())
    }

    fn rejection(&self, code: &str, column: usize, problem: &str) -> Rejection {
        let Self { name, table } = self;
        Rejection::new(code, format!("{name}: {}.{}: {problem}", table.name, table.columns[column].name))
    }
}
