//! The planner: turns a batch's changes into as few set-wise statements as it can, with the same rows as
//! the changes one by one.
//!
//! Each table is planned alone. In a table, a change moves towards the front of the batch as long as it
//! commutes with the changes that it passes. It joins the first step of the same statement that it meets:
//! as a new row, or folded into an existing row of the step. An update by columns other than the key is
//! applied to the pending rows that it would select, if their columns are known. `commute` decides which
//! changes may change places, and `fold` which changes can be folded. If something cannot be proven, the
//! planner does not do it, which costs a step.

mod commute;
mod fold;
mod pending;

use projector_model::{Change, Contract, Value, WriteKind};

pub use commute::{Reason, Relation, Rules};
pub use fold::folding;
use pending::{Passage, Pending};

/// One set-wise statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub statement: u16,
    /// The arguments, one row for each change: no two rows have the same values in the statement's `by`
    /// columns. Sorted by these columns, so that two writers lock in the same order.
    pub rows: Vec<Row>,
    /// The number of changes in the step.
    pub changes: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub arguments: Vec<Value>,
    /// The first event, by its place in the batch, that led to this row.
    pub event: usize,
    /// The event that writes last wherever this row is written, by its place in the batch.
    pub writer: usize,
}

/// Plans the changes of a batch: `(place of the event in the batch, its change)`, in order.
///
/// Every change fits its statement: see [`Contract::fit`]. `rules` are the contract's own.
pub fn plan<'a>(
    contract: &Contract,
    rules: &Rules,
    changes: impl IntoIterator<Item = (usize, &'a Change)>,
) -> Vec<Step> {
    let mut tables: Vec<Vec<Pending>> = contract.tables.iter().map(|_| Vec::new()).collect();
    for (event, change) in changes {
        let table = contract.writes[usize::from(change.statement)].table;
        place(contract, rules, &mut tables[table], event, change);
    }
    tables.into_iter().flatten().map(|pending| pending.into_step(contract)).collect()
}

/// Whether these steps lock rows in the one order that all such transactions have: table by table, and in each by
/// key. Two of them then wait for each other one way only. A database locks the rows of an insert as they are
/// given, those of an update or a delete as it finds them.
pub fn locks_in_order(contract: &Contract, steps: &[Step]) -> bool {
    let table = |step: &Step| contract.writes[usize::from(step.statement)].table;
    let inserts = |step: &Step| {
        let write = &contract.writes[usize::from(step.statement)];
        match write.kind {
            WriteKind::Upsert | WriteKind::InsertOnce => true,
            // It leaves a tombstone.
            WriteKind::Delete => write.guard.is_some(),
            WriteKind::Update => false,
        }
    };
    // The steps of a table follow each other.
    steps.windows(2).all(|pair| table(&pair[0]) != table(&pair[1]))
        && steps.iter().all(|step| step.rows.len() < 2 || inserts(step))
}

/// Finds a change its step, from the last one on towards the first.
fn place(contract: &Contract, rules: &Rules, steps: &mut Vec<Pending>, event: usize, change: &Change) {
    let mut patched = Vec::new();
    let mut joined = false;
    let mut at = steps.len();
    while at > 0 {
        let step = &mut steps[at - 1];
        if step.statement == change.statement {
            joined = step.join(contract, event, change);
            break;
        }
        match step.lets_pass(contract, rules.relation(step.statement, change.statement), change) {
            Passage::Blocked => break,
            Passage::Untouched => {}
            Passage::Patching(rows, patch) => patched.push((at - 1, rows, patch)),
        }
        at -= 1;
    }
    for (passed, rows, patch) in patched {
        steps[passed].patch(&rows, patch, event, change);
    }
    if !joined {
        // A write by key stays behind: an update by other columns can still be written into it. Such
        // an update goes ahead.
        let by_key = contract.is_by_key(&contract.writes[usize::from(change.statement)]);
        let at = if by_key { steps.len() } else { at };
        let mut step = Pending::new(change.statement);
        step.join(contract, event, change);
        steps.insert(at, step);
    }
}

#[cfg(test)]
mod tests;
