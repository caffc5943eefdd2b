//! The stored rows that a batch's events ask for, as changed by the events before them.

use std::collections::HashSet;

use projector_model::interpret::Row;
use projector_model::{Change, Contract, LookupCall, Tables};

use super::Read;
use crate::plugin::Found;
use crate::store::StoreError;

/// Only rows that a lookup asked for are known here. Changes to other rows are applied as well,
/// onto nothing: what becomes of such a row is never shown, because a lookup loads its row first.
pub(super) struct Overlay<'c> {
    contract: &'c Contract,
    tables: Tables,
    /// What was asked and read.
    asked: HashSet<LookupCall>,
    stored: Vec<(usize, Row)>,
    /// Changes of earlier events to tables that lookups read, in order.
    pending: Vec<Vec<Change>>,
}

impl<'c> Overlay<'c> {
    pub(super) fn new(contract: &'c Contract) -> Self {
        Self {
            contract,
            tables: Tables::new(contract),
            asked: HashSet::new(),
            stored: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// Reads what these calls find, all at once, if it was not read before.
    pub(super) fn load(&mut self, calls: Vec<LookupCall>, read: &mut Read<'_>) -> Result<(), StoreError> {
        let new: HashSet<LookupCall> = calls.into_iter().filter(|call| !self.asked.contains(call)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut new: Vec<LookupCall> = new.into_iter().collect();
        new.sort();
        let found = read(&new)?;
        for (call, rows) in new.into_iter().zip(found) {
            let table = self.contract.lookups[usize::from(call.lookup)].table;
            self.stored.extend(rows.into_iter().map(|row| (table, row)));
            self.asked.insert(call);
        }
        // Rows that come late meet every change that was made before they were asked for.
        self.tables = Tables::new(self.contract);
        for (table, row) in &self.stored {
            self.tables.load(self.contract, *table, row.clone());
        }
        for changes in &self.pending {
            apply(&mut self.tables, self.contract, changes);
        }
        Ok(())
    }

    /// Whether a call could find rows that earlier events changed and nobody has loaded: it selects
    /// by other columns than the key, in a table that they write.
    pub(super) fn is_unsure(&self, call: &LookupCall) -> bool {
        let lookup = &self.contract.lookups[usize::from(call.lookup)];
        let written =
            |change: &Change| self.contract.writes[usize::from(change.statement)].table == lookup.table;
        !self.contract.tables[lookup.table].is_key(&lookup.by) && self.pending.iter().flatten().any(written)
    }

    /// Whether all of these calls were loaded.
    pub(super) fn knows(&self, calls: &[LookupCall]) -> bool {
        calls.iter().all(|call| self.asked.contains(call))
    }

    /// Adds what calls that were loaded find now.
    pub(super) fn show(&self, calls: &[LookupCall], found: &mut Vec<Found>) {
        found.extend(calls.iter().map(|call| (call.clone(), self.tables.lookup(self.contract, call))));
    }

    /// Applies an event's changes to the tables that lookups read.
    pub(super) fn apply(&mut self, changes: &[Change]) {
        let is_read = |change: &&Change| {
            let table = self.contract.writes[usize::from(change.statement)].table;
            self.contract.lookups.iter().any(|lookup| lookup.table == table)
        };
        let changes: Vec<Change> = changes.iter().filter(is_read).cloned().collect();
        if changes.is_empty() {
            return;
        }
        apply(&mut self.tables, self.contract, &changes);
        self.pending.push(changes);
    }
}

/// What the interpreter rejects here the store will reject as well; the batch is then projected
/// again without that event.
fn apply(tables: &mut Tables, contract: &Contract, changes: &[Change]) {
    let _ = tables.apply_event(contract, changes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use projector_model::{Descriptor, Value};

    fn contract() -> Contract {
        let json = serde_json::json!({
            "name": "t", "version": "1", "topics": [{"name": "t", "statements": ["put", "move"], "lookups": ["one", "some"]}],
            "tables": [{"name": "t", "key": ["id"], "indexes": [{"columns": ["grp"]}], "columns": [
                {"name": "id", "type": "int64"}, {"name": "grp", "type": "text", "nullable": true},
                {"name": "n", "type": "int64", "nullable": true}]}],
            "statements": [
                {"name": "put", "table": "t", "kind": "upsert", "set": [{"column": "n", "operation": "add"}]},
                {"name": "move", "table": "t", "kind": "update", "by": ["grp"], "set": [{"column": "n"}]}],
            "lookups": [
                {"name": "one", "table": "t", "by": ["id"], "columns": ["n"]},
                {"name": "some", "table": "t", "by": ["grp"], "columns": ["id"], "limit": 9}],
        });
        Descriptor::from_json(&json.to_string()).and_then(Descriptor::check).expect("sound")
    }

    fn one(id: i64) -> LookupCall {
        LookupCall { lookup: 0, arguments: vec![Value::Int64(id)] }
    }

    /// Stored: row 1 of group a, with 10.
    fn stored(calls: &[LookupCall]) -> Result<Vec<Vec<Row>>, StoreError> {
        let row = Row {
            values: vec![Value::Int64(1), Value::Text("a".into()), Value::Int64(10)],
            tombstone: false,
        };
        Ok(calls.iter().map(|call| if *call == one(1) { vec![row.clone()] } else { vec![] }).collect())
    }

    #[test]
    fn a_row_that_is_asked_for_late_meets_the_changes_before_it() {
        let contract = contract();
        let put = Change { statement: 0, arguments: vec![Value::Int64(1), Value::Int64(5)] };
        for late in [false, true] {
            let mut overlay = Overlay::new(&contract);
            if !late {
                overlay.load(vec![one(1), one(2)], &mut stored).unwrap();
            }
            overlay.apply(std::slice::from_ref(&put));
            overlay.load(vec![one(1), one(2)], &mut stored).unwrap();
            let mut found = Vec::new();
            overlay.show(&[one(1), one(2)], &mut found);
            assert_eq!(found, [(one(1), vec![vec![Value::Int64(15)]]), (one(2), vec![])]);
        }
    }

    #[test]
    fn a_lookup_by_other_columns_is_unsure_once_its_table_is_written() {
        let contract = contract();
        let mut overlay = Overlay::new(&contract);
        let some = LookupCall { lookup: 1, arguments: vec![Value::Text("a".into())] };
        assert!(!overlay.is_unsure(&some));
        overlay.apply(&[Change { statement: 0, arguments: vec![Value::Int64(1), Value::Int64(5)] }]);
        assert!(overlay.is_unsure(&some) && !overlay.is_unsure(&one(1)));
    }
}
