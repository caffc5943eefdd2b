//! What differs between two generations of one projection.
//!
//! Rows are told apart by their key; tombstones and lineage are left out, and so is what is expected to
//! differ. Events that wait in one generation explain rows that it has not: they are listed apart.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use projector_core::event::Partition;
use projector_core::generation::Generation;
use projector_model::{Contract, Table, nearest};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::StoreError;

/// The store as it was committed at one moment, on a connection of its own, for as long as this lives.
///
/// That keeps the database from clearing away what was deleted since: Postgres' vacuum leaves it, and
/// SQLite's write-ahead log grows. After an error it is of no more use.
#[async_trait]
pub trait Snapshot: Send {
    /// All checkpoints of a generation, by their partition.
    async fn checkpoints(&mut self, generation: &Generation) -> Result<Vec<(Partition, i64)>, StoreError>;

    /// How many rows readers see in each table of a generation.
    async fn row_counts(
        &mut self,
        generation: &Generation,
        contract: &Contract,
    ) -> Result<BTreeMap<String, i64>, StoreError>;

    /// Compares two generations. It takes as long as reading both, and as much of the host's memory as the
    /// samples.
    async fn diff(&mut self, request: &DiffRequest<'_>) -> Result<Diff, StoreError>;
}

pub struct DiffRequest<'a> {
    pub old: (&'a Generation, &'a Contract),
    pub new: (&'a Generation, &'a Contract),
    pub expected: &'a Expected,
    /// Of each table, at most so many rows of each kind of difference are shown.
    pub samples: usize,
}

/// What is meant to differ: tables, as `table`, and columns, as `table.column`. They are not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Expected(BTreeSet<String>);

impl Expected {
    /// The error says which word is none.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let is_name =
            |name: &str| !name.is_empty() && !name.contains(|c: char| c == '.' || c.is_whitespace());
        for word in words {
            let (table, column) = word.split_once('.').map_or((&**word, None), |(t, c)| (t, Some(c)));
            if !is_name(table) || !column.is_none_or(is_name) {
                return Err(format!(
                    "`{word}` names nothing that can differ: write `table` or `table.column`"
                ));
            }
        }
        Ok(Self(words.iter().cloned().collect()))
    }

    /// Whether all of them are known to one of these contracts, and are not of a key. The error names the
    /// nearest that is.
    pub fn check(&self, old: &Contract, new: &Contract) -> Result<(), String> {
        let tables = || old.tables.iter().chain(&new.tables);
        let words = |table: &Table, column: usize| format!("{}.{}", table.name, table.columns[column].name);
        let keys: BTreeSet<String> =
            tables().flat_map(|table| table.key.iter().map(move |at| words(table, *at))).collect();
        let columns = tables().flat_map(|table| (0..table.columns.len()).map(move |at| words(table, at)));
        let known: BTreeSet<String> = tables()
            .map(|table| table.name.clone())
            .chain(columns)
            .filter(|word| !keys.contains(word))
            .collect();
        for word in &self.0 {
            if keys.contains(word) {
                return Err(format!(
                    "`{word}` is of the key, by which rows are told apart: only the whole table can be expected to differ"
                ));
            }
            if !known.contains(word) {
                let nearest = nearest(word, known.iter().map(String::as_str));
                let remedy =
                    nearest.map(|nearest| format!(": did you mean `{nearest}`?")).unwrap_or_default();
                return Err(format!("neither generation has `{word}`{remedy}"));
            }
        }
        Ok(())
    }

    pub fn has_table(&self, table: &str) -> bool {
        self.0.contains(table)
    }

    pub fn has_column(&self, table: &str, column: &str) -> bool {
        self.0.contains(&format!("{table}.{column}"))
    }
}

/// What differs, and what was not compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// Tables that both have, but those that are expected to differ.
    pub tables: Vec<TableDiff>,
    /// Those expected to be there included.
    pub tables_only_in_old: Vec<String>,
    pub tables_only_in_new: Vec<String>,
    /// As it was declared.
    pub expected: Expected,
    /// Of the old generation, and of the new one.
    pub waiting: [Waiting; 2],
}

impl Diff {
    /// Whether nothing differs that was not expected to. Columns that only one generation has are no
    /// difference, and neither are those whose types differ: no value of them can be compared.
    pub fn is_equal(&self) -> bool {
        let mut only_in_one = self.tables_only_in_old.iter().chain(&self.tables_only_in_new);
        self.tables.iter().all(TableDiff::is_equal) && only_in_one.all(|table| self.expected.has_table(table))
    }
}

/// One table in both generations. All counts are of rows that readers see.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableDiff {
    pub table: String,
    /// Why its rows cannot be compared, if they cannot: all below is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub rows_old: i64,
    pub rows_new: i64,
    pub only_in_old: i64,
    pub only_in_new: i64,
    /// Rows that both have, of which some column differs.
    pub differ: i64,
    /// In how many of those rows each column differs; only those that do.
    pub by_column: BTreeMap<String, i64>,
    pub columns_not_compared: BTreeMap<String, NotCompared>,
    /// The first ones of each kind, in the order of the key.
    pub samples: Vec<Sample>,
}

impl TableDiff {
    pub fn is_equal(&self) -> bool {
        self.reason.is_none() && self.only_in_old == 0 && self.only_in_new == 0 && self.differ == 0
    }
}

/// Why a column was not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotCompared {
    Expected,
    OnlyInOld,
    OnlyInNew,
    TypesDiffer,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub key: BTreeMap<String, Json>,
    pub kind: Difference,
    /// Of a row that both have: the columns that differ, old and new.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, [Json; 2]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    OnlyInOld,
    OnlyInNew,
    Differs,
}

/// Events that are not in a generation's rows yet, because they failed or wait behind one that did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    pub dead_letters: Held,
    pub parked: Held,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    pub events: i64,
    /// The oldest ones.
    pub samples: Vec<HeldEvent>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldEvent {
    /// `topic/partition@offset`
    pub position: String,
    /// As [`as_json`](projector_core::event::as_json) shows it.
    pub key: Option<Json>,
}
