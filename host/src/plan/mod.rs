//! The planner: a batch's changes as set-wise statements that give the same rows as the changes
//! one by one.
//!
//! Tables are independent of each other, so each has a *run* of its own: consecutive changes of
//! one statement, at most one row for each key. A change of another statement of the same table,
//! or one that cannot be folded into the row that is there, ends the run. What is folded is proven
//! in `fold`; what cannot be proven is not folded.

mod fold;

use std::collections::HashMap;

use projector_model::{Change, Contract, Value};

use fold::Fold;

/// One set-wise statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub statement: u16,
    /// Arguments, a row for each: no two have the same values in the statement's `by` columns.
    /// Sorted by them, so that two writers lock in the same order.
    pub rows: Vec<Row>,
    /// How many changes were folded into it.
    pub changes: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub arguments: Vec<Value>,
    /// The first event, by its place in the batch, that led to this row.
    pub event: usize,
}

/// Plans the changes of a batch: `(place of the event in the batch, its change)`, in order.
///
/// Every change fits its statement: see [`Contract::fit`].
pub fn plan<'a>(contract: &Contract, changes: impl IntoIterator<Item = (usize, &'a Change)>) -> Vec<Step> {
    let mut planner =
        Planner { contract, open: contract.tables.iter().map(|_| None).collect(), steps: Vec::new() };
    for (event, change) in changes {
        planner.add(event, change);
    }
    planner.finish()
}

struct Planner<'c> {
    contract: &'c Contract,
    /// By table.
    open: Vec<Option<Run>>,
    steps: Vec<Step>,
}

struct Run {
    statement: u16,
    rows: Vec<Row>,
    /// The values of the `by` columns → the row.
    by: HashMap<Vec<Value>, usize>,
    changes: u64,
}

impl Planner<'_> {
    fn add(&mut self, event: usize, change: &Change) {
        let write = &self.contract.writes[usize::from(change.statement)];
        let table = write.table;
        let by = change.arguments[..write.by.len()].to_vec();
        if let Some(run) = &mut self.open[table]
            && run.statement == change.statement
            && !fold::selects_by_what_it_sets(write)
        {
            match run.by.get(&by) {
                None => {
                    run.push(by, Row { arguments: change.arguments.clone(), event });
                    return;
                }
                Some(at) => {
                    let columns = &self.contract.tables[table].columns;
                    let row = &mut run.rows[*at];
                    if fold::fold(write, columns, &mut row.arguments, &change.arguments) == Fold::Done {
                        run.changes += 1;
                        return;
                    }
                }
            }
        }
        self.end(table);
        let mut run = Run { statement: change.statement, rows: Vec::new(), by: HashMap::new(), changes: 0 };
        run.push(by, Row { arguments: change.arguments.clone(), event });
        self.open[table] = Some(run);
    }

    fn end(&mut self, table: usize) {
        if let Some(run) = self.open[table].take() {
            let by = self.contract.writes[usize::from(run.statement)].by.len();
            let mut rows = run.rows;
            rows.sort_by(|a, b| a.arguments[..by].cmp(&b.arguments[..by]));
            self.steps.push(Step { statement: run.statement, rows, changes: run.changes });
        }
    }

    fn finish(mut self) -> Vec<Step> {
        (0..self.open.len()).for_each(|table| self.end(table));
        self.steps
    }
}

impl Run {
    fn push(&mut self, by: Vec<Value>, row: Row) {
        self.by.insert(by, self.rows.len());
        self.rows.push(row);
        self.changes += 1;
    }
}

#[cfg(test)]
mod tests;
