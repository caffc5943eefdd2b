//! The stored rows that the events of a batch ask for, with the changes of the batch's earlier events.
//!
//! The overlay holds the rows that were asked for by their key: existing rows, missing rows, and tombstones. Each
//! change of the batch is applied to these rows only, since no event sees other rows.
//!
//! Nothing is undone in an overlay. If the database rejects an event, the whole transaction is rolled back: the events
//! before it are then committed without it, and the events after it are projected again, with a new overlay.

use std::collections::{HashMap, HashSet};

use projector_model::interpret::{Key, Row};
use projector_model::{Change, Contract, LookupCall, Tables};
use projector_sandbox::Found;
use projector_store::StoreError;

use super::Read;

pub(super) struct Overlay<'c> {
    contract: &'c Contract,
    /// The rows that were read, with all changes so far.
    tables: Tables,
    /// The keys whose rows were read, by table.
    known: Vec<HashSet<Key>>,
    /// Rows that were found by other columns than the key. They are valid until an event changes the table: see
    /// [`may_miss_changes`](Self::may_miss_changes).
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

    /// Reads the rows of these calls that were not read before, in the order of the calls, up to `most_bytes`. Returns
    /// whether at least one more call is answered now. [`knows`](Self::knows) returns whether all are.
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
        let mut read_now = Tables::new(self.contract);
        let mut keys = vec![HashSet::new(); self.contract.tables.len()];
        for (call, rows) in new.into_iter().zip(found) {
            let Some(rows) = rows else { continue };
            self.read_bytes += rows.iter().map(Row::size_bytes).sum::<usize>();
            match self.key_of(&call) {
                Some((table, key)) => {
                    rows.into_iter().for_each(|row| read_now.load(self.contract, table, row));
                    keys[table].insert(key);
                }
                None => drop(self.found.insert(call, rows)),
            }
        }
        // The database does not have the changes of this batch yet: apply them to the rows that were just read.
        for change in &self.pending {
            apply_to_known(&mut read_now, self.contract, &keys, change);
        }
        for (table, keys) in keys.into_iter().enumerate() {
            read_now.rows(table).for_each(|(_, row)| self.tables.load(self.contract, table, row.clone()));
            self.known[table].extend(keys);
        }
        Ok(is_answered)
    }

    /// The bytes of all rows that were read.
    pub(super) fn read_bytes(&self) -> usize {
        self.read_bytes
    }

    /// Whether a read for this call may miss changes of earlier events of the batch: it selects by other columns than
    /// the key, in a table that these events write. Which rows it finds is known only after they are committed.
    pub(super) fn may_miss_changes(&self, call: &LookupCall) -> bool {
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
                apply_to_known(&mut self.tables, self.contract, &self.known, change);
                self.pending.push(change.clone());
            }
        }
    }

    /// The table and the key of the row that a call asks for. `None`: the call selects by other columns than the key.
    fn key_of(&self, call: &LookupCall) -> Option<(usize, Key)> {
        let lookup = &self.contract.lookups[usize::from(call.lookup)];
        let key = self.contract.tables[lookup.table].key_given(&lookup.by, &call.arguments)?;
        Some((lookup.table, key))
    }
}

/// Applies a change to the known rows. A change that finds none of them is no error: it may find other rows in the
/// database.
fn apply_to_known(tables: &mut Tables, contract: &Contract, known: &[HashSet<Key>], change: &Change) {
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
    fn a_row_gets_every_change_whether_it_is_read_before_or_after() {
        assert_eq!(shown(&[1, 2], &[call(PUT, &[1, 5])]), [Some(Value::Int64(15)), None]);
        assert_eq!(shown(&[1, 2], &[call(ERASE, &[1]), call(PUT, &[2, 5])]), [None, Some(Value::Int64(5))]);
    }

    #[test]
    fn a_stored_tombstone_keeps_a_late_change_away() {
        assert_eq!(shown(&[7], &[rename(7, "late", 5)]), [None]);
        assert_eq!(shown(&[7], &[rename(7, "new", 8)]), [Some(Value::Null)]);
        assert_eq!(shown(&[7], &[call(REMOVE, &[7, 6]), rename(7, "late", 6)]), [None]);
    }

    /// Row 3 and the rows of group b were not read: they may exist in the database.
    #[test]
    fn a_change_that_finds_no_known_row_undoes_no_other() {
        let of_group = |group: &str, n| Change {
            statement: 1,
            arguments: vec![Value::Text(group.into()), Value::Int64(n)],
        };
        assert_eq!(shown(&[1], &[call(PUT, &[1, 5]), call(ERASE, &[3])]), [Some(Value::Int64(15))]);
        assert_eq!(shown(&[1], &[call(PUT, &[1, 5]), of_group("b", 0)]), [Some(Value::Int64(15))]);
        assert_eq!(shown(&[1], &[of_group("a", 3), of_group("b", 4)]), [Some(Value::Int64(3))]);
    }

    /// Whether a sum overflows depends on the stored row, which is not known here.
    #[test]
    fn a_sum_in_a_row_that_is_not_known_overflows_nowhere() {
        let changes = [call(PUT, &[3, i64::MAX]), call(PUT, &[1, 5]), call(PUT, &[3, 5])];
        assert_eq!(shown(&[1], &changes), [Some(Value::Int64(15))]);
    }

    #[test]
    fn a_lookup_by_other_columns_may_miss_changes_once_its_table_is_written() {
        let contract = contract();
        let mut overlay = Overlay::new(&contract);
        let some = LookupCall { lookup: 1, arguments: vec![Value::Text("a".into())] };
        assert!(!overlay.may_miss_changes(&some));
        overlay.apply(&[call(PUT, &[1, 5])]);
        assert!(overlay.may_miss_changes(&some) && !overlay.may_miss_changes(&one(1)));
    }
}
