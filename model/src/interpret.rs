//! The reference interpreter: what each change does to the rows, in memory, one change after the other.
//!
//! Why: the planner and the stores write sets of rows at once. Tests compare their results with this interpreter. The
//! SQLite store and the SDK's test harness use the interpreter itself.
//!
//! Invariants:
//! - An event's changes are applied all or none: see [`Tables::apply_event`].
//! - A journal holds every changed row as it was before, so that any changes since a [`Mark`] can be undone.

use std::collections::{BTreeMap, BTreeSet};

use crate::change::{Change, LookupCall, Rejection, codes};
use crate::contract::{Contract, Guard, Table, Write, WriteKind};
use crate::descriptor::{OnMiss, Operation};
use crate::fit;
use crate::value::{Type, Value};

/// The values of a primary key, in the key's order.
pub type Key = Vec<Value>;

/// A stored row: a value for each column of its table, in declared order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub values: Vec<Value>,
    /// A guarded delete has left a tombstone, which has only the key and the version. Readers, lookups and unguarded
    /// statements do not see the row.
    pub tombstone: bool,
}

impl Row {
    /// How much memory the row occupies, in bytes.
    pub fn size_bytes(&self) -> usize {
        std::mem::size_of::<Self>() + self.values.iter().map(Value::size_bytes).sum::<usize>()
    }
}

/// The rows of a projection's tables, or at least the rows that a batch can read or change.
#[derive(Debug, Clone)]
pub struct Tables {
    tables: Vec<BTreeMap<Key, Row>>,
    /// The changes since the last [`Tables::forget_undo`], oldest first: table, key, and the row before the change.
    journal: Vec<(usize, Key, Option<Row>)>,
    /// The rows that were changed before that call.
    changed_before: BTreeSet<(usize, Key)>,
}

/// A position in the journal. Changes after a mark can be undone.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

impl Tables {
    /// Empty tables.
    pub fn new(contract: &Contract) -> Self {
        Self {
            tables: vec![BTreeMap::new(); contract.tables.len()],
            journal: Vec::new(),
            changed_before: BTreeSet::new(),
        }
    }

    /// Adds a row that is stored in the database. The row does not count as changed.
    pub fn load(&mut self, contract: &Contract, table: usize, row: Row) {
        let key = contract.tables[table].key_of(&row.values);
        self.tables[table].insert(key, row);
    }

    /// All rows of a table with their keys, in the order of the key. Tombstones are included.
    pub fn rows(&self, table: usize) -> impl Iterator<Item = (&Key, &Row)> {
        self.tables[table].iter()
    }

    /// The row with this key, or its tombstone.
    pub fn row(&self, table: usize, key: &Key) -> Option<&Row> {
        self.tables[table].get(key)
    }

    /// The tables and keys of all rows that were changed since they were loaded, sorted, each once.
    pub fn changed(&self) -> BTreeSet<(usize, &Key)> {
        let before = self.changed_before.iter().map(|(table, key)| (*table, key));
        before.chain(self.journal.iter().map(|(table, key, _)| (*table, key))).collect()
    }

    /// Drops the previous versions of all rows, to free their memory. Changes so far can no longer be undone, and
    /// existing marks are void.
    pub fn forget_undo(&mut self) {
        self.changed_before.extend(self.journal.drain(..).map(|(table, key, _)| (table, key)));
    }

    /// The tables and keys of the rows that were written or deleted since the mark, in the order of the changes.
    pub fn changed_since(&self, mark: Mark) -> impl Iterator<Item = (usize, &Key)> {
        self.journal[mark.0..].iter().map(|(table, key, _)| (*table, key))
    }

    /// Applies the changes of one event, in order. Returns for each change how many rows it wrote or deleted.
    ///
    /// The changes are applied all or none: after a rejection the rows are as they were before.
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

    /// Applies one change. Returns how many rows it wrote or deleted.
    ///
    /// After a rejection, rows that the change had written already keep their new values. The caller undoes them, as
    /// [`Tables::apply_event`] does.
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
        // A stored row that is newer than the change is selected, but not written. That is not a miss.
        if touched.selected == 0 && write.on_miss == OnMiss::Reject {
            return Err(missed(write, table, by));
        }
        Ok(touched.written)
    }

    /// The rows that a lookup selects, in the order of the key, each with the lookup's columns. Tombstones are left out.
    ///
    /// The call must fit its declaration: see [`Contract::fit_lookup`].
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

    /// The current position in the journal.
    pub fn mark(&self) -> Mark {
        Mark(self.journal.len())
    }

    /// Undoes all changes since the mark.
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

    /// The keys of the rows whose columns have these values, in the order of the key. Tombstones are left out.
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

/// What an update or delete did.
#[derive(Default)]
struct Touched {
    /// Rows that the statement selected.
    selected: u64,
    /// Rows that were written or deleted, and tombstones that were left for a key without a row.
    written: u64,
}

/// Whether the stored version is higher than the change's version. `arguments` begin behind the first `by` arguments.
fn is_newer(stored: &Row, guard: Option<Guard>, arguments: &[Value], by: usize) -> bool {
    guard.is_some_and(|guard| stored.values[guard.column] > arguments[guard.argument - by])
}

/// The stored row after an upsert or update.
fn combined(write: &Write, table: &Table, stored: &Row, set: &[Value]) -> Result<Row, Rejection> {
    let mut row = stored.clone();
    for ((column, operation), argument) in write.set.iter().zip(set) {
        let value = &mut row.values[*column];
        *value = combine(*operation, value, argument, table.columns[*column].ty)
            .ok_or_else(|| overflow(table, *column, value, argument))?;
    }
    Ok(row)
}

/// The value of a column after an operation. `None`: the sum of an `add` is outside the type's range.
///
/// Every operation is associative. So the planner can fold several changes of one key into a single change.
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
        format!(
            "{}.{}: {stored} + {argument} is outside the range of {}",
            table.name, column.name, column.ty
        ),
    )
}

/// The rejection of an event whose update or delete found no row.
pub fn missed(write: &Write, table: &Table, by: &[Value]) -> Rejection {
    let selection = fit::selection(table, &write.by, by);
    Rejection::new(codes::MISSED, format!("{}: no row of {} with {selection}", write.name, table.name))
}

impl Table {
    /// The key of a row with these values.
    pub fn key_of(&self, values: &[Value]) -> Key {
        self.key.iter().map(|column| values[*column].clone()).collect()
    }

    /// The key that these values of these columns form. `None`: the columns are not the key.
    pub fn key_given(&self, columns: &[usize], values: &[Value]) -> Option<Key> {
        let value =
            |key: &usize| columns.iter().position(|column| column == key).map(|at| values[at].clone());
        self.is_key(columns).then(|| self.key.iter().filter_map(value).collect())
    }
}

#[cfg(test)]
mod tests;
