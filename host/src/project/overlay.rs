//! The stored rows that the events of a batch ask for, as changed by the events before them.
//!
//! The overlay knows the rows that were asked for by their key: existing rows, missing rows, and tombstones. Each change
//! of the batch is applied to these rows and to no others, since other rows are never shown.
//!
//! No event is undone here. If the store rejects an event, the whole transaction is rolled back: the events before it are
//! committed then, and those after it are projected again.

use std::collections::{HashMap, HashSet};

use projector_model::interpret::{Key, Row};
use projector_model::{Change, Contract, LookupCall, Tables};
use projector_sandbox::Found;
use projector_store::StoreError;

use super::Read;

pub(super) struct Overlay<'c> {
    contract: &'c Contract,
    /// The known rows, with all changes so far.
    tables: Tables,
    /// The keys that were asked for, by table.
    known: Vec<HashSet<Key>>,
    /// Rows that were found by other columns than the key. They are shown as long as the table is not changed.
    found: HashMap<LookupCall, Vec<Row>>,
    /// The bytes of the rows that were read.
    read_bytes: usize,
    /// Changes of earlier events to tables that lookups read, in order.
    pending: Vec<Change>,
}

impl<'c> Overlay<'c> {
    pub(super) fn new(contract: &'c Contract) -> Self {
        Self {
            contract,
            tables: Tables::new(contract),
            known: vec![HashSet::new(); contract.tables.len()],
            found: HashMap::new(),
            read_bytes: 0,
            pending: Vec::new(),
        }
    }

    /// Reads the rows of these calls that were not read before, in their order, up to this many bytes. Returns whether
    /// more calls are answered than before; [`knows`](Self::knows) tells whether all are.
    pub(super) fn load(
        &mut self,
        calls: &[LookupCall],
        most_bytes: usize,
        read: &mut Read<'_>,
    ) -> Result<bool, StoreError> {
        let mut asked = HashSet::new();
        let new: Vec<LookupCall> =
            calls.iter().filter(|call| !self.is_known(call) && asked.insert(*call)).cloned().collect();
        if new.is_empty() {
            return Ok(false);
        }
        let found = read(&new, most_bytes)?;
        let is_answered = found.iter().any(Option::is_some);
        let mut late = Tables::new(self.contract);
        let mut keys = vec![HashSet::new(); self.contract.tables.len()];
        for (call, rows) in new.into_iter().zip(found) {
            let Some(rows) = rows else { continue };
            self.read_bytes += rows.iter().map(Row::size_bytes).sum::<usize>();
            match self.key_of(&call) {
                Some((table, key)) => {
                    rows.into_iter().for_each(|row| late.load(self.contract, table, row));
                    keys[table].insert(key);
                }
                None => drop(self.found.insert(call, rows)),
            }
        }
        // Apply the earlier changes of the batch to rows that are read only now.
        for change in &self.pending {
            meet(&mut late, self.contract, &keys, change);
        }
        for (table, keys) in keys.into_iter().enumerate() {
            late.rows(table).for_each(|(_, row)| self.tables.load(self.contract, table, row.clone()));
            self.known[table].extend(keys);
        }
        Ok(is_answered)
    }

    /// The bytes of all rows that were read.
    pub(super) fn read_bytes(&self) -> usize {
        self.read_bytes
    }

    /// Whether a call could find rows that earlier events changed and that were not read: it selects by other columns than
    /// the key, in a table that these events write.
    pub(super) fn is_unsure(&self, call: &LookupCall) -> bool {
        let lookup = &self.contract.lookups[usize::from(call.lookup)];
        let written =
            |change: &Change| self.contract.writes[usize::from(change.statement)].table == lookup.table;
        !self.contract.tables[lookup.table].is_key(&lookup.by) && self.pending.iter().any(written)
    }

    /// Whether the rows of all these calls were read.
    pub(super) fn knows(&self, calls: &[LookupCall]) -> bool {
        calls.iter().all(|call| self.is_known(call))
    }

    fn is_known(&self, call: &LookupCall) -> bool {
        match self.key_of(call) {
            Some((table, key)) => self.known[table].contains(&key),
            None => self.found.contains_key(call),
        }
    }

    /// The bytes of the rows that these calls find now.
    pub(super) fn size_bytes(&self, calls: &[LookupCall]) -> usize {
        let of_call = |call: &LookupCall| match self.key_of(call) {
            Some((table, key)) => self.tables.row(table, &key).map_or(0, Row::size_bytes),
            None => self.found.get(call).into_iter().flatten().map(Row::size_bytes).sum(),
        };
        calls.iter().map(of_call).sum()
    }

    /// Adds the rows that these calls find now.
    pub(super) fn show(&self, calls: &[LookupCall], found: &mut Vec<Found>) {
        let now = |call: &LookupCall| match self.found.get(call) {
            Some(rows) => rows.iter().map(|row| row.values.clone()).collect(),
            None => self.tables.lookup(self.contract, call),
        };
        found.extend(calls.iter().map(|call| (call.clone(), now(call))));
    }

    /// Applies an event's changes to the tables that lookups read.
    pub(super) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let table = self.contract.writes[usize::from(change.statement)].table;
            if self.contract.lookups.iter().any(|lookup| lookup.table == table) {
                meet(&mut self.tables, self.contract, &self.known, change);
                self.pending.push(change.clone());
            }
        }
    }

    /// The one row that a call asks for, if it does so by the key.
    fn key_of(&self, call: &LookupCall) -> Option<(usize, Key)> {
        let lookup = &self.contract.lookups[usize::from(call.lookup)];
        let key = self.contract.tables[lookup.table].key_given(&lookup.by, &call.arguments)?;
        Some((lookup.table, key))
    }
}

/// Applies a change to the known rows. A change that finds none of them is fine: it may find other rows in the store.
fn meet(tables: &mut Tables, contract: &Contract, known: &[HashSet<Key>], change: &Change) {
    let write = &contract.writes[usize::from(change.statement)];
    let by = &change.arguments[..write.by.len()];
    match contract.tables[write.table].key_given(&write.by, by) {
        Some(key) if !known[write.table].contains(&key) => {}
        _ => {
            drop(tables.apply(contract, change));
            tables.forget_undo();
        }
    }
}

#[cfg(test)]
mod tests {
    use projector_model::{Descriptor, Value};

    use super::*;

    fn contract() -> Contract {
        let json = serde_json::json!({
            "name": "t", "version": "1", "topics": [{"name": "t", "statements": ["put", "move", "remove", "rename", "erase"], "lookups": ["one", "some"]}],
            "tables": [{"name": "t", "key": ["id"], "indexes": [{"columns": ["grp"]}], "columns": [
                {"name": "id", "type": "int64"}, {"name": "grp", "type": "text", "nullable": true},
                {"name": "n", "type": "int64", "nullable": true}, {"name": "v", "type": "int64", "nullable": true}]}],
            "statements": [
                {"name": "put", "table": "t", "kind": "upsert", "set": [{"column": "n", "operation": "add"}]},
                {"name": "move", "table": "t", "kind": "update", "by": ["grp"], "set": [{"column": "n"}], "on-miss": "reject"},
                {"name": "remove", "table": "t", "kind": "delete", "by": ["id"], "guard": "v"},
                {"name": "rename", "table": "t", "kind": "upsert", "set": [{"column": "grp"}, {"column": "v"}], "guard": "v"},
                {"name": "erase", "table": "t", "kind": "delete", "by": ["id"], "on-miss": "reject"}],
            "lookups": [
                {"name": "one", "table": "t", "by": ["id"], "columns": ["n"]},
                {"name": "some", "table": "t", "by": ["grp"], "columns": ["id"], "limit": 9}],
        });
        Descriptor::from_json(&json.to_string()).and_then(Descriptor::check).expect("sound")
    }

    fn one(id: i64) -> LookupCall {
        LookupCall { lookup: 0, arguments: vec![Value::Int64(id)] }
    }

    fn call(statement: u16, arguments: &[i64]) -> Change {
        Change { statement, arguments: arguments.iter().copied().map(Value::Int64).collect() }
    }

    const PUT: u16 = 0;
    const REMOVE: u16 = 2;
    const ERASE: u16 = 4;

    fn rename(id: i64, group: &str, version: i64) -> Change {
        Change {
            statement: 3,
            arguments: vec![Value::Int64(id), Value::Text(group.into()), Value::Int64(version)],
        }
    }

    /// Stored: row 1 of group a, with 10; the tombstone of row 7, of version 7.
    fn stored(calls: &[LookupCall], _: usize) -> Result<Vec<Option<Vec<Row>>>, StoreError> {
        let row = |values: [Value; 4], tombstone| vec![Row { values: values.into(), tombstone }];
        let (int, null) = (Value::Int64, || Value::Null);
        let find = |call: &LookupCall| match call.arguments[0] {
            Value::Int64(1) => Some(row([int(1), Value::Text("a".into()), int(10), null()], false)),
            Value::Int64(7) => Some(row([int(7), null(), null(), int(7)], true)),
            _ => Some(vec![]),
        };
        Ok(calls.iter().map(find).collect())
    }

    /// The column `n` of these rows, after these changes, if they were asked for first or last.
    fn shown(ids: &[i64], changes: &[Change]) -> Vec<Option<Value>> {
        let contract = contract();
        let calls: Vec<LookupCall> = ids.iter().map(|id| one(*id)).collect();
        let [early, late] = [false, true].map(|late| {
            let mut overlay = Overlay::new(&contract);
            if !late {
                overlay.load(&calls, usize::MAX, &mut stored).unwrap();
            }
            overlay.apply(changes);
            overlay.load(&calls, usize::MAX, &mut stored).unwrap();
            let mut found = Vec::new();
            overlay.show(&calls, &mut found);
            found
                .into_iter()
                .map(|(_, rows)| rows.into_iter().next().map(|row| row[0].clone()))
                .collect::<Vec<_>>()
        });
        assert_eq!(early, late);
        early
    }

    #[test]
    fn a_row_meets_every_change_whether_it_is_asked_for_before_or_after() {
        assert_eq!(shown(&[1, 2], &[call(PUT, &[1, 5])]), [Some(Value::Int64(15)), None]);
        assert_eq!(shown(&[1, 2], &[call(ERASE, &[1]), call(PUT, &[2, 5])]), [None, Some(Value::Int64(5))]);
    }

    #[test]
    fn a_stored_tombstone_keeps_a_late_change_away() {
        assert_eq!(shown(&[7], &[rename(7, "late", 5)]), [None]);
        assert_eq!(shown(&[7], &[rename(7, "new", 8)]), [Some(Value::Null)]);
        assert_eq!(shown(&[7], &[call(REMOVE, &[7, 6]), rename(7, "late", 6)]), [None]);
    }

    /// Rows 3 and those of group b are not known here: they may be there, and the store will tell.
    #[test]
    fn a_change_that_meets_no_known_row_undoes_no_other() {
        let of_group = |group: &str, n| Change {
            statement: 1,
            arguments: vec![Value::Text(group.into()), Value::Int64(n)],
        };
        assert_eq!(shown(&[1], &[call(PUT, &[1, 5]), call(ERASE, &[3])]), [Some(Value::Int64(15))]);
        assert_eq!(shown(&[1], &[call(PUT, &[1, 5]), of_group("b", 0)]), [Some(Value::Int64(15))]);
        assert_eq!(shown(&[1], &[of_group("a", 3), of_group("b", 4)]), [Some(Value::Int64(3))]);
    }

    /// Whether a sum overflows depends on the row that is stored.
    #[test]
    fn a_sum_in_a_row_that_is_not_known_overflows_nowhere() {
        let changes = [call(PUT, &[3, i64::MAX]), call(PUT, &[1, 5]), call(PUT, &[3, 5])];
        assert_eq!(shown(&[1], &changes), [Some(Value::Int64(15))]);
    }

    #[test]
    fn a_lookup_by_other_columns_is_unsure_once_its_table_is_written() {
        let contract = contract();
        let mut overlay = Overlay::new(&contract);
        let some = LookupCall { lookup: 1, arguments: vec![Value::Text("a".into())] };
        assert!(!overlay.is_unsure(&some));
        overlay.apply(&[call(PUT, &[1, 5])]);
        assert!(overlay.is_unsure(&some) && !overlay.is_unsure(&one(1)));
    }
}
