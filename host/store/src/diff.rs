//! The differences between two generations of one projection, as plain data.
//!
//! Rows are matched by their key. Tombstones, lineage and what is expected to differ are not compared. Events that failed or
//! wait in one generation explain rows that it does not have, so they are listed as well.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use projector_core::event::Partition;
use projector_core::generation::Generation;
use projector_model::{Contract, Table, nearest};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::error::StoreError;

/// The store as it was committed at one moment, on a connection of its own.
///
/// While it lives, the database cannot remove what was deleted since: Postgres' vacuum leaves these rows, and SQLite's
/// write-ahead log grows. After an error the snapshot cannot be used any more.
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

    /// Compares two generations. This takes as long as reading both, and as much of the host's memory as the samples.
    async fn diff(&mut self, request: &DiffRequest<'_>) -> Result<Diff, StoreError>;
}

pub struct DiffRequest<'a> {
    pub old: (&'a Generation, &'a Contract),
    pub new: (&'a Generation, &'a Contract),
    pub expected: &'a Expected,
    /// How many rows of each kind of difference are shown of each table, at most.
    pub samples: usize,
}

/// What is expected to differ: tables, as `table`, and columns, as `table.column`. They are not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Expected(BTreeSet<String>);

impl Expected {
    /// The error names the word that is neither a table nor a column.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let is_name =
            |name: &str| !name.is_empty() && !name.contains(|c: char| c == '.' || c.is_whitespace());
        for word in words {
            let (table, column) = word.split_once('.').map_or((&**word, None), |(t, c)| (t, Some(c)));
            if !is_name(table) || !column.is_none_or(is_name) {
                return Err(format!("`{word}` is no table and no column: write `table` or `table.column`"));
            }
        }
        Ok(Self(words.iter().cloned().collect()))
    }

    /// Checks that one of these contracts has each of them, and that none is a column of a key. The error names the nearest
    /// known name.
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
                    "`{word}` is a column of the key, by which rows are matched: only the whole table can be expected to differ"
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

/// The differences, and what was not compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// Tables that both generations have, without those that are expected to differ.
    pub tables: Vec<TableDiff>,
    /// With those that are expected.
    pub tables_only_in_old: Vec<String>,
    pub tables_only_in_new: Vec<String>,
    /// As the request declared it.
    pub expected: Expected,
    /// The events that are missing in the old generation, and in the new one.
    pub waiting: [Waiting; 2],
}

impl Diff {
    /// Whether all differences are expected. A column that only one generation has, or whose type differs, does not count:
    /// its values cannot be compared.
    pub fn is_equal(&self) -> bool {
        let mut only_in_one = self.tables_only_in_old.iter().chain(&self.tables_only_in_new);
        self.tables.iter().all(TableDiff::is_equal) && only_in_one.all(|table| self.expected.has_table(table))
    }
}

/// One table in both generations. All counts are of rows that readers see.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableDiff {
    pub table: String,
    /// Why its rows cannot be compared, if they cannot. Then all fields below are empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub rows_old: i64,
    pub rows_new: i64,
    pub only_in_old: i64,
    pub only_in_new: i64,
    /// Rows that both have, of which some column differs.
    pub differ: i64,
    /// In how many of these rows each column differs. Only columns that differ.
    pub by_column: BTreeMap<String, i64>,
    pub columns_not_compared: BTreeMap<String, NotCompared>,
    /// The first rows of each kind, in the order of the key.
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
    /// Of a row that both have: the columns that differ, each with its old and its new value.
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

/// Events that are not in a generation's rows, because they failed or wait.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    pub dead_letters: MissingEvents,
    pub parked: MissingEvents,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MissingEvents {
    pub events: i64,
    /// The oldest of them.
    pub samples: Vec<MissingEvent>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MissingEvent {
    /// `topic/partition@offset`
    pub position: String,
    /// As [`as_json`](projector_core::event::as_json) shows it.
    pub key: Option<Json>,
}
