//! The reference interpreter: what changes do to rows, one by one, in memory.
//!
//! Everything that writes faster is held against this. SQLite writes with it directly.

use std::collections::{BTreeMap, BTreeSet};

use crate::change::{Change, LookupCall, Rejection, codes};
use crate::contract::{Contract, Guard, Table, Write, WriteKind};
use crate::descriptor::{OnMiss, Operation};
use crate::value::{Type, Value};

/// The values of a primary key, in the key's order.
pub type Key = Vec<Value>;

/// A stored row: a value for each column of its table, in declared order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub values: Vec<Value>,
    /// Left by a guarded delete: the row is gone for readers, lookups and unguarded statements;
    /// only its key and version are kept.
    pub tombstone: bool,
}

impl Row {
    /// What it takes in memory.
    pub fn size_bytes(&self) -> usize {
        std::mem::size_of::<Self>() + self.values.iter().map(Value::size_bytes).sum::<usize>()
    }
}

/// The rows of a projection's tables, or of those of its rows that a batch can touch.
#[derive(Debug, Clone)]
pub struct Tables {
    tables: Vec<BTreeMap<Key, Row>>,
    /// Every row that was changed since the last [`Tables::settle`], as it was before, oldest first.
    journal: Vec<(usize, Key, Option<Row>)>,
    /// The rows that were changed before that.
    settled: BTreeSet<(usize, Key)>,
}

/// A place in the journal, to undo back to.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

impl Tables {
    pub fn new(contract: &Contract) -> Self {
        Self {
            tables: vec![BTreeMap::new(); contract.tables.len()],
            journal: Vec::new(),
            settled: BTreeSet::new(),
        }
    }

    /// Puts a row as it is stored, without a trace in the journal.
    pub fn load(&mut self, contract: &Contract, table: usize, row: Row) {
        let key = contract.tables[table].key_of(&row.values);
        self.tables[table].insert(key, row);
    }

    /// All rows of a table with their keys, tombstones included, in the order of the key.
    pub fn rows(&self, table: usize) -> impl Iterator<Item = (&Key, &Row)> {
        self.tables[table].iter()
    }

    pub fn row(&self, table: usize, key: &Key) -> Option<&Row> {
        self.tables[table].get(key)
    }

    /// The keys of the rows that were changed since the tables were loaded, each once, sorted.
    pub fn changed(&self) -> BTreeSet<(usize, &Key)> {
        let settled = self.settled.iter().map(|(table, key)| (*table, key));
        settled.chain(self.journal.iter().map(|(table, key, _)| (*table, key))).collect()
    }

    /// Says that nothing of what was done so far will be undone: marks before this are void, and no row is
    /// kept any longer as it was before.
    pub fn settle(&mut self) {
        self.settled.extend(self.journal.drain(..).map(|(table, key, _)| (table, key)));
    }

    /// The keys of the rows that were written or deleted since the mark, in the order in which that
    /// happened.
    pub fn changed_since(&self, mark: Mark) -> impl Iterator<Item = (usize, &Key)> {
        self.journal[mark.0..].iter().map(|(table, key, _)| (*table, key))
    }

    /// Applies the changes of one event, in order; returns by change how many rows it touched.
    ///
    /// All of them or none: on a rejection the rows are as they were before.
    pub fn apply_event(&mut self, contract: &Contract, changes: &[Change]) -> Result<Vec<u64>, Rejection> {
        let mark = self.mark();
        let mut touched = Vec::with_capacity(changes.len());
        for change in changes {
            match self.apply(contract, change) {
                Ok(rows) => touched.push(rows),
                Err(rejection) => {
                    self.undo_to(mark);
                    return Err(rejection);
                }
            }
        }
        Ok(touched)
    }

    /// Applies one change, and returns how many rows it touched. On a rejection, rows that it had
    /// already touched stay touched: see [`Tables::apply_event`].
    pub fn apply(&mut self, contract: &Contract, change: &Change) -> Result<u64, Rejection> {
        let mut change = change.clone();
        contract.fit(&mut change)?;
        let write = &contract.writes[usize::from(change.statement)];
        let table = &contract.tables[write.table];
        let (by, set) = change.arguments.split_at(write.by.len());
        let touched = match write.kind {
            WriteKind::Upsert => return self.upsert(write, table, by, set),
            WriteKind::InsertOnce => return self.upsert(write, table, by, set),
            WriteKind::Update => self.update(write, table, by, set)?,
            WriteKind::Delete => self.delete(write, table, by, set),
        };
        // A row that is there but newer than the change is not a miss.
        if touched.selected == 0 && write.on_miss == OnMiss::Reject {
            return Err(missed(write, table, by));
        }
        Ok(touched.written)
    }

    pub fn lookup(&self, contract: &Contract, call: &LookupCall) -> Vec<Vec<Value>> {
        let lookup = &contract.lookups[usize::from(call.lookup)];
        let table = &contract.tables[lookup.table];
        self.selected(lookup.table, table, &lookup.by, &call.arguments)
            .into_iter()
            .take(lookup.limit as usize)
            .map(|key| {
                let row = &self.tables[lookup.table][&key];
                lookup.columns.iter().map(|column| row.values[*column].clone()).collect()
            })
            .collect()
    }

    pub fn mark(&self) -> Mark {
        Mark(self.journal.len())
    }

    /// Brings every row back to what it was at the mark.
    pub fn undo_to(&mut self, mark: Mark) {
        while self.journal.len() > mark.0 {
            if let Some((table, key, before)) = self.journal.pop() {
                match before {
                    Some(row) => self.tables[table].insert(key, row),
                    None => self.tables[table].remove(&key),
                };
            }
        }
    }

    fn upsert(
        &mut self,
        write: &Write,
        table: &Table,
        by: &[Value],
        set: &[Value],
    ) -> Result<u64, Rejection> {
        let key = by.to_vec();
        let stored = self.tables[write.table].get(&key);
        let newer = |row: &Row| is_newer(row, write.guard, set, by.len());
        let row = match stored {
            Some(row) if newer(row) => return Ok(0),
            Some(row) if !row.tombstone => {
                if write.kind == WriteKind::InsertOnce {
                    return Ok(0);
                }
                combined(write, table, row, set)?
            }
            Some(_) | None => {
                let mut values = vec![Value::Null; table.columns.len()];
                for (column, value) in write.by.iter().zip(by) {
                    values[*column] = value.clone();
                }
                for ((column, _), value) in write.set.iter().zip(set) {
                    values[*column] = value.clone();
                }
                Row { values, tombstone: false }
            }
        };
        self.put(write.table, key, Some(row));
        Ok(1)
    }

    fn update(
        &mut self,
        write: &Write,
        table: &Table,
        by: &[Value],
        set: &[Value],
    ) -> Result<Touched, Rejection> {
        let mut touched = Touched::default();
        for key in self.selected(write.table, table, &write.by, by) {
            touched.selected += 1;
            let stored = &self.tables[write.table][&key];
            if is_newer(stored, write.guard, set, by.len()) {
                continue;
            }
            let row = combined(write, table, stored, set)?;
            touched.written += 1;
            self.put(write.table, key, Some(row));
        }
        Ok(touched)
    }

    fn delete(&mut self, write: &Write, table: &Table, by: &[Value], version: &[Value]) -> Touched {
        let Some(guard) = write.guard else {
            let keys = self.selected(write.table, table, &write.by, by);
            let count = keys.len() as u64;
            keys.into_iter().for_each(|key| self.put(write.table, key, None));
            return Touched { selected: count, written: count };
        };
        let mut values = vec![Value::Null; table.columns.len()];
        for (column, value) in write.by.iter().zip(by) {
            values[*column] = value.clone();
        }
        values[guard.column] = version[0].clone();
        let key = table.key_of(&values);
        let mut touched = Touched::default();
        if let Some(stored) = self.tables[write.table].get(&key) {
            touched.selected = u64::from(!stored.tombstone);
            if is_newer(stored, write.guard, version, by.len()) {
                return touched;
            }
        } else if write.on_miss == OnMiss::Reject {
            return touched;
        }
        touched.written = 1;
        self.put(write.table, key, Some(Row { values, tombstone: true }));
        touched
    }

    /// The keys of the rows, tombstones aside, whose columns have these values, in key order.
    fn selected(&self, table_index: usize, table: &Table, columns: &[usize], values: &[Value]) -> Vec<Key> {
        let rows = &self.tables[table_index];
        if let Some(key) = table.key_given(columns, values) {
            return Some(key)
                .filter(|key| rows.get(key).is_some_and(|row| !row.tombstone))
                .into_iter()
                .collect();
        }
        let matches =
            |row: &Row| columns.iter().zip(values).all(|(column, value)| row.values[*column] == *value);
        rows.iter().filter(|(_, row)| !row.tombstone && matches(row)).map(|(key, _)| key.clone()).collect()
    }

    fn put(&mut self, table: usize, key: Key, row: Option<Row>) {
        let before = match row {
            Some(row) => self.tables[table].insert(key.clone(), row),
            None => self.tables[table].remove(&key),
        };
        self.journal.push((table, key, before));
    }
}

#[derive(Default)]
struct Touched {
    /// Rows that are there.
    selected: u64,
    /// Those of them that were written, or a tombstone that was left where there was none.
    written: u64,
}

fn is_newer(stored: &Row, guard: Option<Guard>, arguments: &[Value], by: usize) -> bool {
    guard.is_some_and(|guard| stored.values[guard.column] > arguments[guard.argument - by])
}

fn combined(write: &Write, table: &Table, stored: &Row, set: &[Value]) -> Result<Row, Rejection> {
    let mut row = stored.clone();
    for ((column, operation), argument) in write.set.iter().zip(set) {
        let value = &mut row.values[*column];
        *value = combine(*operation, value, argument, table.columns[*column].ty)
            .ok_or_else(|| overflow(table, *column, value, argument))?;
    }
    Ok(row)
}

/// What a column holds after an operation. `None`: an `add` beyond the type's range.
///
/// Every operation is associative, which is what lets the planner fold repeated keys.
pub fn combine(operation: Operation, stored: &Value, argument: &Value, ty: Type) -> Option<Value> {
    Some(match operation {
        Operation::Set => argument.clone(),
        Operation::Keep => stored.clone(),
        Operation::SetIfNull if stored.is_null() => argument.clone(),
        Operation::SetIfNull => stored.clone(),
        _ if stored.is_null() => argument.clone(),
        _ if argument.is_null() => stored.clone(),
        Operation::Min => stored.min(argument).clone(),
        Operation::Max => stored.max(argument).clone(),
        Operation::Add => match (stored, argument, ty) {
            (Value::Int64(a), Value::Int64(b), _) => Value::Int64(a.checked_add(*b)?),
            (Value::Decimal(a), Value::Decimal(b), Type::Decimal { precision, scale }) => {
                Value::Decimal(a.checked_add(*b)?.fit(precision, scale).ok()?)
            }
            _ => return None,
        },
    })
}

fn overflow(table: &Table, column: usize, stored: &Value, argument: &Value) -> Rejection {
    let column = &table.columns[column];
    Rejection::new(
        codes::OVERFLOW,
        format!("{}.{}: {stored} + {argument} is beyond {}", table.name, column.name, column.ty),
    )
}

/// The rejection of an event whose update or delete found no row.
pub fn missed(write: &Write, table: &Table, by: &[Value]) -> Rejection {
    let selection = selection(table, &write.by, by);
    Rejection::new(codes::MISSED, format!("{}: no row of {} with {selection}", write.name, table.name))
}

/// What selects rows, in words.
fn selection(table: &Table, columns: &[usize], values: &[Value]) -> String {
    let pairs = table.column_names(columns).zip(values);
    pairs.map(|(column, value)| format!("{column} = {value}")).collect::<Vec<_>>().join(" and ")
}

impl Table {
    pub fn key_of(&self, values: &[Value]) -> Key {
        self.key.iter().map(|column| values[*column].clone()).collect()
    }

    /// The key of the one row that these values of these columns select. `None`: they are not the key.
    pub fn key_given(&self, columns: &[usize], values: &[Value]) -> Option<Key> {
        let value =
            |key: &usize| columns.iter().position(|column| column == key).map(|at| values[at].clone());
        self.is_key(columns).then(|| self.key.iter().filter_map(value).collect())
    }
}

impl Contract {
    /// The rows that a lookup asks for, in words: `order_search with order_id = "o1"`.
    pub fn selected_by(&self, call: &LookupCall) -> String {
        let lookup = &self.lookups[usize::from(call.lookup)];
        let table = &self.tables[lookup.table];
        format!("{} with {}", table.name, selection(table, &lookup.by, &call.arguments))
    }

    /// Checks a change against its declaration, and brings decimals to their columns' scale: the
    /// statement exists, every argument is there and fits its column, none by which rows are
    /// selected is null. The rejection names the column.
    pub fn fit(&self, change: &mut Change) -> Result<(), Rejection> {
        let write = self.writes.get(usize::from(change.statement)).ok_or_else(|| {
            Rejection::new(
                codes::INVALID_CHANGE,
                format!("statement {} was called, and {} are declared", change.statement, self.writes.len()),
            )
        })?;
        let table = &self.tables[write.table];
        if change.arguments.len() != write.argument_count() {
            return Err(Rejection::new(
                codes::INVALID_CHANGE,
                format!(
                    "{}: {} arguments given, {} declared",
                    write.name,
                    change.arguments.len(),
                    write.argument_count()
                ),
            ));
        }
        for (at, (column, value)) in write.argument_columns().zip(&mut change.arguments).enumerate() {
            let declared = &table.columns[column];
            let named = |code: &str, problem: String| {
                Rejection::new(code, format!("{}: {}.{}: {problem}", write.name, table.name, declared.name))
            };
            value.fit(declared.ty).map_err(|problem| named(codes::INVALID_VALUE, problem))?;
            if !value.is_null() {
                continue;
            }
            if at < write.by.len() || write.guard.is_some_and(|guard| guard.argument == at) {
                return Err(named(codes::NULL_KEY, "null selects no row".into()));
            }
            if !declared.nullable {
                return Err(named(codes::INVALID_VALUE, "null given, and the column is not nullable".into()));
            }
        }
        Ok(())
    }

    /// Checks a lookup call likewise.
    pub fn fit_lookup(&self, call: &mut LookupCall) -> Result<(), Rejection> {
        let lookup = self.lookups.get(usize::from(call.lookup)).ok_or_else(|| {
            Rejection::new(
                codes::INVALID_CHANGE,
                format!("lookup {} was called, and {} are declared", call.lookup, self.lookups.len()),
            )
        })?;
        let table = &self.tables[lookup.table];
        if call.arguments.len() != lookup.by.len() {
            return Err(Rejection::new(
                codes::INVALID_CHANGE,
                format!(
                    "{}: {} arguments given, {} declared",
                    lookup.name,
                    call.arguments.len(),
                    lookup.by.len()
                ),
            ));
        }
        for (column, value) in lookup.by.iter().zip(&mut call.arguments) {
            let declared = &table.columns[*column];
            let named = |code: &str, problem: String| {
                Rejection::new(code, format!("{}: {}.{}: {problem}", lookup.name, table.name, declared.name))
            };
            value.fit(declared.ty).map_err(|problem| named(codes::INVALID_VALUE, problem))?;
            if value.is_null() {
                return Err(named(codes::NULL_KEY, "null selects no row".into()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Descriptor;

    fn contract() -> Contract {
        let json = serde_json::json!({
            "name": "t", "version": "1",
            "topics": [{"name": "t"}],
            "tables": [{
                "name": "t", "key": ["id"], "indexes": [{"columns": ["grp"]}],
                "columns": [
                    {"name": "id", "type": "int64"}, {"name": "grp", "type": "text", "nullable": true},
                    {"name": "n", "type": "int64", "nullable": true}, {"name": "v", "type": "int64", "nullable": true},
                ],
            }],
            "statements": [
                {"name": "count", "table": "t", "kind": "upsert", "set": [{"column": "n", "operation": "add"}]},
                {"name": "put", "table": "t", "kind": "upsert", "set": [{"column": "grp"}, {"column": "v"}], "guard": "v"},
                {"name": "once", "table": "t", "kind": "insert-once", "set": [{"column": "grp"}]},
                {"name": "group", "table": "t", "kind": "update", "by": ["grp"], "set": [{"column": "n"}], "on-miss": "reject"},
                {"name": "drop", "table": "t", "kind": "delete", "by": ["id"], "guard": "v"},
                {"name": "erase", "table": "t", "kind": "delete", "by": ["grp"]},
            ],
        });
        Descriptor::from_json(&json.to_string()).and_then(Descriptor::check).expect("a sound descriptor")
    }

    fn call(statement: u16, arguments: &[Value]) -> Change {
        Change { statement, arguments: arguments.to_vec() }
    }

    fn int(number: i64) -> Value {
        Value::Int64(number)
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn dump(tables: &Tables) -> Vec<(Vec<Value>, bool)> {
        tables.rows(0).map(|(_, row)| (row.values.clone(), row.tombstone)).collect()
    }

    #[test]
    fn adding_counts_null_as_nothing_and_overflow_rejects_the_whole_event() {
        let contract = contract();
        let mut tables = Tables::new(&contract);
        tables
            .apply_event(&contract, &[call(0, &[int(1), int(i64::MAX - 5)]), call(0, &[int(1), Value::Null])])
            .unwrap();
        let before = dump(&tables);
        let rejection = tables
            .apply_event(&contract, &[call(0, &[int(2), int(1)]), call(0, &[int(1), int(6)])])
            .unwrap_err();
        assert_eq!(rejection.code, codes::OVERFLOW);
        assert_eq!(dump(&tables), before);
    }

    #[test]
    fn a_lower_version_does_nothing_and_an_equal_one_wins() {
        let contract = contract();
        let mut tables = Tables::new(&contract);
        let mut put = |group: &str, version| {
            tables.apply(&contract, &call(1, &[int(1), text(group), int(version)])).unwrap()
        };
        assert_eq!((put("a", 5), put("b", 4), put("c", 5)), (1, 0, 1));
        assert_eq!(dump(&tables), [(vec![int(1), text("c"), Value::Null, int(5)], false)]);
    }

    #[test]
    fn a_late_upsert_cannot_resurrect_what_a_guarded_delete_removed() {
        let contract = contract();
        let mut tables = Tables::new(&contract);
        for (change, touched) in [
            (call(4, &[int(1), int(7)]), 1),
            (call(1, &[int(1), text("late"), int(6)]), 0),
            (call(5, &[text("late")]), 0),
            (call(1, &[int(1), text("new"), int(8)]), 1),
        ] {
            assert_eq!(tables.apply(&contract, &change), Ok(touched), "{change:?}");
        }
        assert_eq!(dump(&tables), [(vec![int(1), text("new"), Value::Null, int(8)], false)]);
    }

    #[test]
    fn what_is_settled_is_not_undone_and_no_row_is_kept_as_it_was() {
        let contract = contract();
        let mut tables = Tables::new(&contract);
        tables
            .apply_event(&contract, &[call(2, &[int(1), text("a")]), call(2, &[int(2), text("a")])])
            .unwrap();
        tables.settle();
        assert!(tables.journal.is_empty());
        let before = dump(&tables);
        let mark = tables.mark();
        tables.apply_event(&contract, &[call(0, &[int(3), int(1)]), call(5, &[text("a")])]).unwrap();
        let changed = |tables: &Tables| tables.changed().len();
        assert_eq!((dump(&tables).len(), changed(&tables)), (1, 3));
        tables.undo_to(mark);
        assert_eq!((dump(&tables), changed(&tables)), (before, 2));
    }

    #[test]
    fn an_update_that_may_not_miss_rejects_its_event() {
        let contract = contract();
        let mut tables = Tables::new(&contract);
        let rejection = tables.apply(&contract, &call(3, &[text("a"), int(1)])).unwrap_err();
        assert_eq!(rejection.to_string(), "missed: group: no row of t with grp = \"a\"");
        assert_eq!(tables.apply(&contract, &call(2, &[int(1), text("a")])), Ok(1));
        assert_eq!(tables.apply(&contract, &call(2, &[int(1), text("b")])), Ok(0));
        assert_eq!(tables.apply(&contract, &call(3, &[text("a"), int(1)])), Ok(1));
    }

    #[test]
    fn arguments_are_held_against_their_declaration() {
        let contract = contract();
        let code = |mut change: Change| contract.fit(&mut change).map_err(|rejection| rejection.code);
        assert_eq!(code(call(9, &[])), Err(codes::INVALID_CHANGE.into()));
        assert_eq!(code(call(0, &[int(1)])), Err(codes::INVALID_CHANGE.into()));
        assert_eq!(code(call(0, &[text("1"), int(1)])), Err(codes::INVALID_VALUE.into()));
        assert_eq!(code(call(0, &[Value::Null, int(1)])), Err(codes::NULL_KEY.into()));
        assert_eq!(code(call(4, &[int(1), Value::Null])), Err(codes::NULL_KEY.into()));
        assert_eq!(code(call(0, &[int(1), Value::Null])), Ok(()));
    }
}
