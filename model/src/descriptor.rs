//! The descriptor: what a plugin says about itself, once, in JSON.
//!
//! These are the words as they are written. [`Descriptor::check`] makes them a
//! [`Contract`](crate::Contract), with every name resolved.

use serde::{Deserialize, Serialize};

use crate::check::{self, Problem, Problems};
use crate::contract::Contract;
use crate::value::Type;

/// A projection as its author declares it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Descriptor {
    /// The projection's name: lowercase letters, digits and single dashes, at most 40 characters, and no ending
    /// like `-g1` or `-v2`, which the host adds itself.
    pub name: String,
    /// The author's version of the code, for people: `1.4.0`.
    pub version: String,
    /// Raised by the author when the rows must be built again although the tables are the same.
    #[serde(default = "first_revision")]
    pub revision: u32,
    /// The topics that lead to changes.
    pub topics: Vec<Topic>,
    /// The tables that this projection owns.
    pub tables: Vec<Table>,
    /// Every write it can make. A change names its statement by the index in this list.
    pub statements: Vec<Statement>,
    /// Every read it can make. A lookup call names its lookup by the index in this list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lookups: Vec<Lookup>,
    /// The codes with which it ignores events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignores: Vec<Code>,
    /// The codes with which it rejects events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejects: Vec<Code>,
}

fn first_revision() -> u32 {
    1
}

/// A topic by its logical name, and what its events may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Topic {
    /// The logical name; the platform's configuration maps it to the physical one.
    pub name: String,
    /// Names of the statements that an event of this topic may lead to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
    /// Names of the lookups that an event of this topic may need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lookups: Vec<String>,
    /// Where its events carry an id of their own, by which the host tells a producer's duplicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
    /// Topics of one group are keyed alike: where an event is rejected, later events of its key wait
    /// behind it in all of them. A topic that names none is a group of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_group: Option<String>,
    /// Its events may wait for a row that is not there yet, for so long by the records' own time. Until then, later
    /// events of the topic and key wait behind such an event; those of other topics pass it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u32>,
}

/// Where an event carries its id: in one place, or in several that make it up together, as CloudEvents'
/// source and id do. An event without one there, or with an empty one, is no duplicate of any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventId {
    /// The name of a header, of whose values the last counts. Either this, or `field`, or `parts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The name of a field at the top level of a JSON payload, a text or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The parts of an id, in their order. An event that lacks any of them has no id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<IdPart>,
    /// For how long, at least, an id is remembered, by the records' own time.
    pub window_seconds: u32,
}

/// A part of an event's id: a header, or a field at the top level of a JSON payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum IdPart {
    Header(String),
    Field(String),
}

/// A table. Its primary key is its only unique constraint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    /// The primary key's columns, in order.
    pub key: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<Index>,
    /// Every row keeps the position of the event that wrote it last, and the digest of the plugin
    /// that did, in columns that readers do not see: `_topic`, `_partition`, `_offset`, `_digest`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lineage: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Column {
    pub name: String,
    /// `boolean`, `int64`, `float64`, `decimal(precision,scale)`, `text`, `bytes`, `json`,
    /// `timestamp`, `date` or `uuid`.
    #[serde(rename = "type")]
    pub ty: Type,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nullable: bool,
}

/// An index for readers, or for the statements and lookups that select by its columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Index {
    pub columns: Vec<String>,
    #[serde(default, skip_serializing_if = "IndexKind::is_ordered")]
    pub kind: IndexKind,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum IndexKind {
    /// For equality and ranges (a B-tree).
    #[default]
    Ordered,
    /// For "which documents contain this": one json column (Postgres: GIN with `jsonb_path_ops`;
    /// SQLite has no such index, and scans).
    Contains,
}

impl IndexKind {
    fn is_ordered(&self) -> bool {
        *self == IndexKind::Ordered
    }
}

/// A typed write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Statement {
    pub name: String,
    pub table: String,
    pub kind: StatementKind,
    /// The columns that select the rows of an update or delete. An upsert or insert-once has none:
    /// it writes the row of its key, whose values are its first arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// The columns that are written; those not listed stay as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<Assignment>,
    /// The version column: a change whose version is lower than the stored one does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    #[serde(default, skip_serializing_if = "OnMiss::is_ignore")]
    pub on_miss: OnMiss,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum StatementKind {
    /// Inserts the row of this key, or applies the operations to the one that is there.
    Upsert,
    /// Inserts the row of this key, unless there is one.
    InsertOnce,
    /// Applies the operations to the rows that are there.
    Update,
    Delete,
}

/// What an update or delete does that touches no row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum OnMiss {
    #[default]
    Ignore,
    /// The event is rejected, with the code `missed`.
    Reject,
}

impl OnMiss {
    fn is_ignore(&self) -> bool {
        *self == OnMiss::Ignore
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Assignment {
    pub column: String,
    #[serde(default, skip_serializing_if = "Operation::is_set")]
    pub operation: Operation,
}

/// How an argument meets the value that is stored. A row that is inserted takes the argument.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Operation {
    /// The argument.
    #[default]
    Set,
    /// The sum (int64 and decimal); null counts as 0 beside a number.
    Add,
    /// The lesser of both; null loses.
    Min,
    /// The greater of both; null loses.
    Max,
    /// The stored value; the argument where that is null.
    SetIfNull,
    /// The stored value.
    Keep,
}

impl Operation {
    fn is_set(&self) -> bool {
        *self == Operation::Set
    }
}

/// A typed read: rows of one table by equality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lookup {
    pub name: String,
    pub table: String,
    /// The columns that select the rows: the key, or the first columns of an index.
    pub by: Vec<String>,
    /// The columns that are returned, in this order.
    pub columns: Vec<String>,
    /// At most this many rows, in the order of the key. 1 when `by` is the key.
    #[serde(default = "one_row")]
    pub limit: u32,
}

fn one_row() -> u32 {
    1
}

/// A reason that the plugin gives, and that is counted by its code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Code {
    /// Lowercase letters, digits and dashes: `old-schema`.
    pub code: String,
    /// For the operator who sees it: what it means, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub meaning: String,
}

impl Descriptor {
    /// Reads a descriptor. The error names the place and the nearest word that is known there.
    pub fn from_json(json: &str) -> Result<Self, Problems> {
        let deserializer = &mut serde_json::Deserializer::from_str(json);
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let place = error.path().to_string();
            let message = error.inner().to_string();
            let remedy = check::nearest_expected(&message);
            Problems(vec![Problem { place, message, remedy }])
        })
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a descriptor is plain data with string keys")
    }

    /// Checks everything that can be known before the plugin runs, and resolves every name.
    ///
    /// All problems are found at once; each names its place and says what to write instead.
    pub fn check(self) -> Result<Contract, Problems> {
        check::check(self)
    }

    /// The JSON Schema of descriptors, as it is published in `wit/v1/descriptor.schema.json`.
    #[cfg(feature = "schema")]
    pub fn json_schema() -> String {
        let schema = schemars::schema_for!(Descriptor);
        serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
    }
}

#[cfg(all(test, feature = "schema"))]
mod tests {
    use super::*;

    #[test]
    fn the_published_schema_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/v1/descriptor.schema.json");
        if std::env::var_os("PROJECTOR_BLESS").is_some() {
            std::fs::write(path, Descriptor::json_schema()).expect("wit/v1 can be written");
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            published == Descriptor::json_schema(),
            "wit/v1/descriptor.schema.json is stale: run this test with PROJECTOR_BLESS=1"
        );
    }
}
