//! A checked descriptor, in which every name is resolved to an index.
//!
//! Why: the host handles many events a second, and never looks a name up for one of them.
//!
//! Invariants: every index is in range. Tables, statements, lookups, topics and columns have the positions that they
//! have in the descriptor, so an index in a plugin's change is an index into these lists.

use crate::descriptor::{Descriptor, IdPart, IndexKind, OnMiss, Operation, StatementKind};
use crate::value::Type;

/// What the host relies on. Only [`Descriptor::check`] makes a contract.
#[derive(Debug, Clone)]
pub struct Contract {
    pub descriptor: Descriptor,
    pub topics: Vec<Topic>,
    pub tables: Vec<Table>,
    pub writes: Vec<Write>,
    pub lookups: Vec<Lookup>,
}

/// A topic, and what its events may do.
#[derive(Debug, Clone)]
pub struct Topic {
    /// The logical name.
    pub name: String,
    /// For each statement: whether an event of this topic may call it.
    pub writes: Vec<bool>,
    /// For each lookup: whether an event of this topic may call it.
    pub lookups: Vec<bool>,
    pub event_id: Option<EventId>,
    /// Topics of one group have the same keys. By default each topic is a group of its own, with the topic's name.
    pub ordering_group: String,
    /// For how many seconds, in event time, an event may wait for a missing row. `None`: events of this topic do not wait.
    pub wait_seconds: Option<u32>,
}

/// Where an event carries its id, by which the host recognises duplicates from a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    /// At least one part.
    pub parts: Vec<IdPart>,
    /// For how many seconds, in event time, an id is remembered.
    pub window_seconds: u32,
}

/// A table that the projection owns.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    /// Positions of the primary key's columns, in the key's order.
    pub key: Vec<usize>,
    pub indexes: Vec<Index>,
    /// A guarded delete writes to this table, so its rows have a tombstone flag that readers do not see.
    pub has_tombstones: bool,
    /// Each row stores which event wrote it last, in columns that readers do not see. Events count in the order in which
    /// they are applied. A tombstone stores the event that deleted the row.
    pub has_lineage: bool,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub ty: Type,
    pub nullable: bool,
}

/// An index of a table.
#[derive(Debug, Clone)]
pub struct Index {
    /// Indices into the table's columns.
    pub columns: Vec<usize>,
    pub kind: IndexKind,
}

/// What a statement does with the rows that it selects.
pub type WriteKind = StatementKind;

/// A statement. Its arguments are the values of `by`, then of `set`, then of a guarded delete's version.
#[derive(Debug, Clone)]
pub struct Write {
    pub name: String,
    /// Index into the contract's tables.
    pub table: usize,
    pub kind: WriteKind,
    /// The columns that select the rows. For an upsert or insert-once: the columns of the key.
    pub by: Vec<usize>,
    /// The columns that are written, each with its operation.
    pub set: Vec<(usize, Operation)>,
    pub guard: Option<Guard>,
    pub on_miss: OnMiss,
}

/// The version of a guarded statement. A change with a lower version than the stored row does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// Index into the table's columns.
    pub column: usize,
    /// Index into the statement's arguments.
    pub argument: usize,
}

/// A lookup. Its arguments are the values of `by`.
#[derive(Debug, Clone)]
pub struct Lookup {
    pub name: String,
    /// Index into the contract's tables.
    pub table: usize,
    /// The columns that select the rows.
    pub by: Vec<usize>,
    /// The columns that are returned, in this order.
    pub columns: Vec<usize>,
    /// The largest number of rows that are returned. 1 if `by` is the key.
    pub limit: u32,
}

impl Contract {
    /// The projection's name.
    pub fn name(&self) -> &str {
        &self.descriptor.name
    }

    /// Whether events may read rows.
    pub fn reads(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Whether events may wait for missing rows.
    pub fn waits(&self) -> bool {
        self.topics.iter().any(|topic| topic.wait_seconds.is_some())
    }

    /// For each table: whether an event may wait for a row of the table.
    pub fn awaited_tables(&self) -> Vec<bool> {
        let mut awaited = vec![false; self.tables.len()];
        for topic in self.topics.iter().filter(|topic| topic.wait_seconds.is_some()) {
            for (lookup, _) in self.lookups.iter().zip(&topic.lookups).filter(|(_, may)| **may) {
                awaited[lookup.table] |= lookup.is_by_key(&self.tables[lookup.table]);
            }
        }
        awaited
    }

    /// Whether only one batch of the projection may be in flight at a time.
    ///
    /// This is so if the outcome of an event depends on stored rows (lookups, `on-miss: reject`), or if a statement
    /// writes rows that it does not select by their key.
    pub fn needs_one_writer(&self) -> bool {
        let depends = |write: &Write| !self.is_by_key(write) || write.on_miss == OnMiss::Reject;
        self.reads() || self.writes.iter().any(depends)
    }

    /// Whether a statement touches at most one row: the row whose key is among the arguments.
    pub fn is_by_key(&self, write: &Write) -> bool {
        self.tables[write.table].is_key(&write.by)
    }
}

impl Table {
    /// Whether these columns are exactly the columns of the key, in any order.
    pub fn is_key(&self, columns: &[usize]) -> bool {
        columns.len() == self.key.len() && self.key.iter().all(|column| columns.contains(column))
    }

    /// Whether the column belongs to the key.
    pub fn is_key_column(&self, column: usize) -> bool {
        self.key.contains(&column)
    }

    /// The names of these columns.
    pub fn column_names<'a>(&'a self, columns: &'a [usize]) -> impl Iterator<Item = &'a str> {
        columns.iter().map(|column| self.columns[*column].name.as_str())
    }
}

impl Lookup {
    /// Whether the lookup selects at most one row, by its key.
    pub fn is_by_key(&self, table: &Table) -> bool {
        table.is_key(&self.by)
    }

    /// The columns that the store reads for this lookup.
    ///
    /// Of a row that is selected by its key these are all columns: earlier events of the batch may change the row before
    /// the plugin sees it.
    pub fn read_columns(&self, table: &Table) -> Vec<usize> {
        match self.is_by_key(table) {
            true => (0..table.columns.len()).collect(),
            false => self.columns.clone(),
        }
    }
}

impl Write {
    /// The column of each argument, in the order of the arguments.
    pub fn argument_columns(&self) -> impl Iterator<Item = usize> + '_ {
        let version = self.guard.filter(|_| self.kind == WriteKind::Delete);
        self.by
            .iter()
            .copied()
            .chain(self.set.iter().map(|(column, _)| *column))
            .chain(version.map(|guard| guard.column))
    }

    /// How many arguments a call of this statement has.
    pub fn argument_count(&self) -> usize {
        self.argument_columns().count()
    }

    /// Whether every written column takes the argument, whatever value is stored.
    pub fn only_sets(&self) -> bool {
        self.set.iter().all(|(_, operation)| *operation == Operation::Set)
    }
}
