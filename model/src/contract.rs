//! A checked descriptor: every name is resolved to an index, every promise holds.
//!
//! Indices are positions in the descriptor's own lists, so they are what a plugin's changes carry.

use crate::descriptor::{Descriptor, IdPart, IndexKind, OnMiss, Operation, StatementKind};
use crate::value::Type;

/// What the host may rely on. Made only by [`Descriptor::check`].
#[derive(Debug, Clone)]
pub struct Contract {
    pub descriptor: Descriptor,
    pub topics: Vec<Topic>,
    pub tables: Vec<Table>,
    pub writes: Vec<Write>,
    pub lookups: Vec<Lookup>,
}

#[derive(Debug, Clone)]
pub struct Topic {
    pub name: String,
    /// By statement: whether an event of this topic may lead to it.
    pub writes: Vec<bool>,
    /// By lookup: whether an event of this topic may need it.
    pub lookups: Vec<bool>,
    pub event_id: Option<EventId>,
    /// Topics of one group are keyed alike; the topic's own name, if it names none.
    pub ordering_group: String,
    /// For how long its events may wait for a row that is not there yet. `None`: they may not.
    pub wait_seconds: Option<u32>,
}

/// By what a producer's duplicates are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    /// At least one.
    pub parts: Vec<IdPart>,
    pub window_seconds: u32,
}

#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    /// Positions of the primary key's columns, in the key's order.
    pub key: Vec<usize>,
    pub indexes: Vec<Index>,
    /// A guarded delete writes to this table: rows carry a tombstone flag, hidden from readers.
    pub has_tombstones: bool,
    /// Rows carry who wrote them last, hidden from readers: the last event, in the order in which they
    /// are applied, of whose changes one wrote the row. A tombstone carries its delete.
    pub has_lineage: bool,
}

#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub ty: Type,
    pub nullable: bool,
}

#[derive(Debug, Clone)]
pub struct Index {
    pub columns: Vec<usize>,
    pub kind: IndexKind,
}

pub type WriteKind = StatementKind;

/// A statement. Its arguments are the values of `by`, of `set`, and of a guarded delete's version.
#[derive(Debug, Clone)]
pub struct Write {
    pub name: String,
    pub table: usize,
    pub kind: WriteKind,
    /// Columns that select the rows; the key's, for an upsert or insert-once.
    pub by: Vec<usize>,
    pub set: Vec<(usize, Operation)>,
    pub guard: Option<Guard>,
    pub on_miss: OnMiss,
}

/// The version column of a guarded statement, and where its argument stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    pub column: usize,
    pub argument: usize,
}

#[derive(Debug, Clone)]
pub struct Lookup {
    pub name: String,
    pub table: usize,
    pub by: Vec<usize>,
    pub columns: Vec<usize>,
    pub limit: u32,
}

impl Contract {
    pub fn name(&self) -> &str {
        &self.descriptor.name
    }

    /// Whether events may read rows.
    pub fn reads(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Whether events may wait for rows that are not there yet.
    pub fn waits(&self) -> bool {
        self.topics.iter().any(|topic| topic.wait_seconds.is_some())
    }

    /// By table: whether an event may wait for a row of it.
    pub fn awaited_tables(&self) -> Vec<bool> {
        let mut awaited = vec![false; self.tables.len()];
        for topic in self.topics.iter().filter(|topic| topic.wait_seconds.is_some()) {
            for (lookup, _) in self.lookups.iter().zip(&topic.lookups).filter(|(_, may)| **may) {
                awaited[lookup.table] |= lookup.is_by_key(&self.tables[lookup.table]);
            }
        }
        awaited
    }

    /// Whether a batch must be the only one in flight: what becomes of its events depends on rows
    /// that are stored, or it writes rows of keys that its events do not name.
    pub fn needs_one_writer(&self) -> bool {
        let depends = |write: &Write| !self.is_by_key(write) || write.on_miss == OnMiss::Reject;
        self.reads() || self.writes.iter().any(depends)
    }

    /// Whether a statement touches at most the one row whose key its arguments give.
    pub fn is_by_key(&self, write: &Write) -> bool {
        self.tables[write.table].is_key(&write.by)
    }
}

impl Table {
    /// Whether these columns are the whole key, in any order.
    pub fn is_key(&self, columns: &[usize]) -> bool {
        columns.len() == self.key.len() && self.key.iter().all(|column| columns.contains(column))
    }

    pub fn is_key_column(&self, column: usize) -> bool {
        self.key.contains(&column)
    }

    pub fn column_names<'a>(&'a self, columns: &'a [usize]) -> impl Iterator<Item = &'a str> {
        columns.iter().map(|column| self.columns[*column].name.as_str())
    }
}

impl Lookup {
    /// Whether it asks for the one row whose key its arguments give.
    pub fn is_by_key(&self, table: &Table) -> bool {
        table.is_key(&self.by)
    }

    /// The columns of its table that are read for it: all of a row that it asks for by the key, as changes
    /// may meet it before it is shown.
    pub fn read_columns(&self, table: &Table) -> Vec<usize> {
        match self.is_by_key(table) {
            true => (0..table.columns.len()).collect(),
            false => self.columns.clone(),
        }
    }
}

impl Write {
    /// The columns of the arguments, in order.
    pub fn argument_columns(&self) -> impl Iterator<Item = usize> + '_ {
        let version = self.guard.filter(|_| self.kind == WriteKind::Delete);
        self.by
            .iter()
            .copied()
            .chain(self.set.iter().map(|(column, _)| *column))
            .chain(version.map(|guard| guard.column))
    }

    pub fn argument_count(&self) -> usize {
        self.argument_columns().count()
    }

    /// Whether every written column takes the argument whatever is stored.
    pub fn only_sets(&self) -> bool {
        self.set.iter().all(|(_, operation)| *operation == Operation::Set)
    }
}
