//! A step that later changes may still join, and what can be found in it.

use std::collections::HashMap;

use projector_model::interpret::combine;
use projector_model::{Change, Contract, Value, Write};

use super::commute::{Patch, Relation};
use super::fold::{self, Fold};
use super::{Row, Step};

/// A step of a batch that is still being planned.
pub(super) struct Pending {
    pub(super) statement: u16,
    rows: Vec<Row>,
    changes: u64,
    /// What each row selects by → its place.
    selections: HashMap<Vec<Value>, usize>,
    /// Indexes that [`find`](Self::find) has built: positions of arguments → their values → the rows' places.
    indexes: HashMap<Vec<usize>, HashMap<Vec<Value>, Vec<usize>>>,
}

/// What a change does to the steps that it passes on its way to the front.
pub(super) enum Passage<'r> {
    Blocked,
    Untouched,
    /// The rows that it would have selected, and how it is written into them.
    Patching(Vec<usize>, &'r [Patch]),
}

impl Pending {
    pub(super) fn new(statement: u16) -> Self {
        Self { statement, rows: Vec::new(), changes: 0, selections: HashMap::new(), indexes: HashMap::new() }
    }

    /// Takes a change of the same statement in, as a row of its own or folded into the row with the
    /// same selection. `false`: it needs another step.
    pub(super) fn join(&mut self, contract: &Contract, event: usize, change: &Change) -> bool {
        let write = &contract.writes[usize::from(change.statement)];
        if fold::selects_by_what_it_sets(write) && !self.rows.is_empty() {
            return false;
        }
        let selection = selection(contract, write, &change.arguments);
        match self.selections.get(&selection) {
            None => {
                let at = self.rows.len();
                for (positions, index) in &mut self.indexes {
                    index.entry(values_at(positions, &change.arguments)).or_default().push(at);
                }
                self.selections.insert(selection, at);
                self.rows.push(Row { arguments: change.arguments.clone(), event, writer: event });
            }
            Some(at) => {
                let at = *at;
                let mut folded = self.rows[at].arguments.clone();
                let columns = &contract.tables[write.table].columns;
                match fold::fold(write, columns, &mut folded, &change.arguments) {
                    Fold::Later => {
                        self.rows[at].writer = event;
                        self.replace(at, folded);
                    }
                    Fold::Earlier => {}
                    Fold::Impossible => return false,
                }
            }
        }
        self.changes += 1;
        true
    }

    /// Whether a change of another statement may run before this step.
    pub(super) fn lets_pass<'r>(
        &mut self,
        contract: &Contract,
        relation: &'r Relation,
        change: &Change,
    ) -> Passage<'r> {
        let write = &contract.writes[usize::from(change.statement)];
        let blocked_if = |blocked: bool| if blocked { Passage::Blocked } else { Passage::Untouched };
        match relation {
            Relation::Free => Passage::Untouched,
            Relation::Never(_) => Passage::Blocked,
            Relation::OtherKeys => {
                blocked_if(self.selections.contains_key(&selection(contract, write, &change.arguments)))
            }
            // The row that the change leaves is known; the rows here say what they select.
            Relation::OtherRows(known) if contract.is_by_key(write) => {
                blocked_if(self.selections.contains_key(&values_at(&known.selected_by, &change.arguments)))
            }
            // The other way round.
            Relation::OtherRows(known) => {
                let selected = self.find(&known.selected_by, &change.arguments[..write.by.len()]);
                match (&known.patch, selected.is_empty()) {
                    (_, true) => Passage::Untouched,
                    (Some(patch), false) => Passage::Patching(selected, patch),
                    (None, false) => Passage::Blocked,
                }
            }
        }
    }

    /// Writes an event's update into rows that it would have selected.
    pub(super) fn patch(&mut self, rows: &[usize], patches: &[Patch], event: usize, change: &Change) {
        for at in rows {
            let mut arguments = self.rows[*at].arguments.clone();
            for patch in patches {
                let (stored, with) = (&arguments[patch.argument], &change.arguments[patch.with]);
                // Only sums can fail, and they are never patched in.
                if let Some(value) = combine(patch.operation, stored, with, patch.ty) {
                    arguments[patch.argument] = value;
                }
            }
            self.rows[*at].writer = event;
            self.replace(*at, arguments);
        }
    }

    /// Sorted by what its rows select by: by key, in the order of the table's key.
    pub(super) fn into_step(self, contract: &Contract) -> Step {
        let write = &contract.writes[usize::from(self.statement)];
        let mut rows = self.rows;
        rows.sort_by_cached_key(|row| selection(contract, write, &row.arguments));
        Step { statement: self.statement, rows, changes: self.changes }
    }

    /// The places of the rows with these values.
    fn find(&mut self, positions: &[usize], values: &[Value]) -> Vec<usize> {
        if !self.indexes.contains_key(positions) {
            let mut index: HashMap<Vec<Value>, Vec<usize>> = HashMap::new();
            for (at, row) in self.rows.iter().enumerate() {
                index.entry(values_at(positions, &row.arguments)).or_default().push(at);
            }
            self.indexes.insert(positions.to_vec(), index);
        }
        self.indexes[positions].get(values).cloned().unwrap_or_default()
    }

    fn replace(&mut self, at: usize, arguments: Vec<Value>) {
        let before = std::mem::replace(&mut self.rows[at].arguments, arguments);
        let after = &self.rows[at].arguments;
        for (positions, index) in &mut self.indexes {
            let (was, is) = (values_at(positions, &before), values_at(positions, after));
            if was != is {
                if let Some(places) = index.get_mut(&was) {
                    places.retain(|place| *place != at);
                }
                index.entry(is).or_default().push(at);
            }
        }
    }
}

/// What a change selects by: two changes by key with equal selections touch the same row, in
/// whatever order their statements list the key.
pub(super) fn selection(contract: &Contract, write: &Write, arguments: &[Value]) -> Vec<Value> {
    let table = &contract.tables[write.table];
    if !contract.is_by_key(write) || write.by == table.key {
        return arguments[..write.by.len()].to_vec();
    }
    let value = |column: &usize| write.by.iter().position(|by| by == column).map(|at| arguments[at].clone());
    table.key.iter().filter_map(value).collect()
}

fn values_at(positions: &[usize], arguments: &[Value]) -> Vec<Value> {
    positions.iter().map(|at| arguments[*at].clone()).collect()
}
