//! The tables of a generation as they are, and what a version makes of them: nothing new, additions in
//! place, or all rows anew. Pure.

use std::collections::BTreeMap;
use std::fmt;

use projector_model::Contract;
use projector_model::descriptor::{Column, Index};
use serde::{Deserialize, Serialize};

/// What has to stay as it is for rows to stay right. Stored with the generation, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub revision: u32,
    /// Topics by their logical names, and the group of those that are keyed alike.
    pub topics: BTreeMap<String, String>,
    pub tables: Vec<LaidTable>,
}

/// A table as it is. Columns stand in the order in which readers' views show them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaidTable {
    pub name: String,
    pub columns: Vec<Column>,
    pub key: Vec<String>,
    pub indexes: Vec<Index>,
    pub lineage: bool,
    pub tombstones: bool,
}

/// What a version needs of the tables that are there.
#[derive(Debug, Clone, PartialEq)]
pub enum Fit {
    /// These additions, in this order; maybe none.
    InPlace(Vec<Step>),
    /// New tables, and all rows anew, for these reasons.
    Anew(Vec<String>),
}

/// Something that is added to tables in use.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    CreateTable { table: String },
    AddColumn { table: String, column: String },
    CreateIndex { table: String, index: Index },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::CreateTable { table } => write!(f, "create the table {table}"),
            Step::AddColumn { table, column } => write!(f, "add the column {table}.{column}"),
            Step::CreateIndex { table, index } => {
                write!(f, "create an index of {table} on {}", index.columns.join(", "))
            }
        }
    }
}

impl Step {
    /// What it locks in Postgres, for how long, and whom that keeps waiting.
    pub fn locks(&self) -> &'static str {
        match self {
            Step::CreateTable { .. } => "nothing that is in use",
            Step::AddColumn { .. } => {
                "the table, exclusively, for a moment (the catalog alone is changed); gives up after lock-timeout and is tried again"
            }
            Step::CreateIndex { .. } => {
                "nothing that keeps reads or writes waiting (concurrently; it waits for transactions that are open)"
            }
        }
    }
}

impl Layout {
    /// As a generation is made for a version.
    pub fn of(contract: &Contract) -> Self {
        let declared = contract.descriptor.tables.iter().zip(&contract.tables);
        Self {
            revision: contract.descriptor.revision,
            topics: contract
                .topics
                .iter()
                .map(|topic| (topic.name.clone(), topic.ordering_group.clone()))
                .collect(),
            tables: declared
                .map(|(table, checked)| LaidTable {
                    name: table.name.clone(),
                    columns: table.columns.clone(),
                    key: table.key.clone(),
                    indexes: table.indexes.clone(),
                    lineage: checked.has_lineage,
                    tombstones: checked.has_tombstones,
                })
                .collect(),
        }
    }

    pub fn table(&self, name: &str) -> Option<&LaidTable> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// What a version needs of these tables.
    pub fn fit(&self, offered: &Contract) -> Fit {
        let wanted = Layout::of(offered);
        let mut reasons = Vec::new();
        if self.revision != wanted.revision {
            reasons.push(format!("its revision is {}, and was {}", wanted.revision, self.revision));
        }
        let names = |layout: &Layout| layout.topics.keys().cloned().collect::<Vec<_>>();
        if names(self) != names(&wanted) {
            let (now, was) = (names(&wanted).join(", "), names(self).join(", "));
            reasons.push(format!("its topics are {now}, and were {was}"));
        } else if self.topics != wanted.topics {
            // What waits behind a dead letter would be of another key.
            reasons.push("it changes which of its topics are keyed alike".to_owned());
        }
        let mut steps = Vec::new();
        for table in &wanted.tables {
            match self.table(&table.name) {
                None => {
                    steps.push(Step::CreateTable { table: table.name.clone() });
                }
                Some(laid) => laid.fit(table, &mut steps, &mut reasons),
            }
        }
        for gone in self.tables.iter().filter(|table| wanted.table(&table.name).is_none()) {
            reasons.push(format!("it has no table {} any more", gone.name));
        }
        if reasons.is_empty() { Fit::InPlace(steps) } else { Fit::Anew(reasons) }
    }

    /// With what a version adds. What is there stays as it is, in its order.
    pub fn extended(&self, offered: &Contract) -> Layout {
        let mut extended = self.clone();
        for table in Layout::of(offered).tables {
            match extended.tables.iter_mut().find(|laid| laid.name == table.name) {
                None => extended.tables.push(table),
                Some(laid) => {
                    let new = |column: &Column| !laid.columns.iter().any(|laid| laid.name == column.name);
                    let columns: Vec<Column> =
                        table.columns.iter().filter(|column| new(column)).cloned().collect();
                    laid.columns.extend(columns);
                    for index in table.indexes {
                        if !laid.indexes.contains(&index) {
                            laid.indexes.push(index);
                        }
                    }
                }
            }
        }
        extended
    }

    /// Whether readers could not tell one from the other: the same tables, of the same columns.
    pub fn reads_like(&self, other: &Layout) -> bool {
        let shown = |layout: &Layout| -> BTreeMap<String, BTreeMap<String, String>> {
            let columns = |table: &LaidTable| {
                table.columns.iter().map(|column| (column.name.clone(), column.ty.to_string())).collect()
            };
            layout.tables.iter().map(|table| (table.name.clone(), columns(table))).collect()
        };
        shown(self) == shown(other)
    }
}

impl LaidTable {
    fn fit(&self, wanted: &LaidTable, steps: &mut Vec<Step>, reasons: &mut Vec<String>) {
        let table = &self.name;
        if self.key != wanted.key {
            reasons.push(format!("the key of {table} is another one"));
        }
        if self.tombstones != wanted.tombstones {
            reasons.push(format!("it changes whether {table} keeps the tombstones of guarded deletes"));
        }
        if self.lineage != wanted.lineage {
            reasons.push(format!("it changes whether the rows of {table} have lineage"));
        }
        for column in &wanted.columns {
            let name = &column.name;
            match self.columns.iter().find(|laid| laid.name == *name) {
                Some(laid) if laid == column => {}
                Some(laid) if laid.ty != column.ty => {
                    reasons.push(format!("{table}.{name} is {}, and was {}", column.ty, laid.ty));
                }
                Some(_) => reasons.push(format!("it changes whether {table}.{name} may be null")),
                None if column.nullable => {
                    steps.push(Step::AddColumn { table: table.clone(), column: name.clone() });
                }
                None => reasons.push(format!("{table}.{name} is new, and may not be null")),
            }
        }
        for gone in
            self.columns.iter().filter(|laid| !wanted.columns.iter().any(|column| column.name == laid.name))
        {
            reasons.push(format!("it has no column {table}.{} any more", gone.name));
        }
        // An index that is not declared any more is left: it costs writes, and harms no row.
        for index in wanted.indexes.iter().filter(|index| !self.indexes.contains(index)) {
            steps.push(Step::CreateIndex { table: table.clone(), index: index.clone() });
        }
    }
}
