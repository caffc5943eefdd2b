//! The descriptor: what a plugin declares about itself, as JSON, when the host loads it.
//!
//! Why: the host must know every read and write of a plugin before the plugin runs. So it can refuse a wrong
//! declaration, create the tables and prepare each statement once.
//!
//! The types in here are the JSON as an author writes it, with names that are not resolved yet. [`Descriptor::check`]
//! resolves them into a [`Contract`](crate::Contract). The doc comments of these types are published as the descriptions
//! in `wit/v1/descriptor.schema.json`.

use serde::{Deserialize, Serialize};

use crate::problem::{self, Problem, Problems};
use crate::value::Type;

/// A projection as its author declares it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Descriptor {
    /// The projection's name: lowercase letters, digits and single dashes, at most 40 characters. It must not end like
    /// `-g1` or `-v2`, because the host derives such names itself.
    pub name: String,
    /// The version of the plugin's code, for people: `1.4.0`.
    pub version: String,
    /// The author raises the revision to have all rows rebuilt although the tables are unchanged.
    #[serde(default = "first_revision")]
    pub revision: u32,
    /// The topics that the projection reads.
    pub topics: Vec<Topic>,
    /// The tables that the projection owns.
    pub tables: Vec<Table>,
    /// Every write that the projection can make. A change names its statement by the index in this list.
    pub statements: Vec<Statement>,
    /// Every read that the projection can make. A lookup call names its lookup by the index in this list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lookups: Vec<Lookup>,
    /// The codes with which the projection ignores events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignores: Vec<Code>,
    /// The codes with which the projection rejects events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejects: Vec<Code>,
}

fn first_revision() -> u32 {
    1
}

/// A topic, and what its events may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Topic {
    /// The logical name. The platform's configuration maps it to the name of a topic in Kafka.
    pub name: String,
    /// The names of the statements that an event of this topic may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
    /// The names of the lookups that an event of this topic may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lookups: Vec<String>,
    /// Where an event carries its id, by which the host recognises duplicates from a producer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
    /// Topics of one group have the same keys. If an event is rejected, later events of its key wait behind it, in all
    /// topics of the group. A topic without a group is a group of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_group: Option<String>,
    /// For how many seconds an event may wait for a missing row, measured in the records' timestamps. Meanwhile, later
    /// events of the same topic and key wait behind the event. Events of other topics do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u32>,
}

/// Where an event carries its id: in a header, in a field, or in several parts that form the id together, such as the
/// source and id of CloudEvents. Exactly one of `header`, `field` and `parts` is given. An event without an id, or with an
/// empty one, is never a duplicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventId {
    /// The name of a header. If the header is repeated, its last value counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The name of a field at the top level of a JSON payload. Its value is a text or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The parts of the id, in order. An event that lacks one of the parts has no id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<IdPart>,
    /// For how many seconds, at least, an id is remembered, measured in the records' timestamps.
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
    /// The table's name: lowercase letters, digits and single underscores, at most 63 characters.
    pub name: String,
    pub columns: Vec<Column>,
    /// The columns of the primary key, in order.
    pub key: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<Index>,
    /// Each row stores the position of the event that wrote it last, and the digest of the plugin that was active then,
    /// in the columns `_topic`, `_partition`, `_offset` and `_digest`. Readers do not see these columns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lineage: bool,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Column {
    /// The column's name: lowercase letters, digits and underscores, at most 63 characters.
    pub name: String,
    /// `boolean`, `int64`, `float64`, `decimal(precision,scale)`, `text`, `bytes`, `json`,
    /// `timestamp`, `date` or `uuid`.
    #[serde(rename = "type")]
    pub ty: Type,
    /// Whether a row may have null in this column.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nullable: bool,
}

/// An index, for readers or for the statements and lookups that select rows by its columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Index {
    /// The names of the index's columns, in order.
    pub columns: Vec<String>,
    #[serde(default, skip_serializing_if = "IndexKind::is_ordered")]
    pub kind: IndexKind,
}

/// What an index is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum IndexKind {
    /// For equality and ranges (a B-tree).
    #[default]
    Ordered,
    /// For "which documents contain this value", over one json column. Postgres uses GIN with `jsonb_path_ops`. SQLite
    /// has no such index, and scans the table.
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
    /// The statement's name, for people and metrics: lowercase letters, digits, dashes, dots and underscores, at most 63
    /// characters.
    pub name: String,
    /// The name of the table that the statement writes.
    pub table: String,
    pub kind: StatementKind,
    /// The columns that select the rows of an update or delete. An upsert or insert-once lists none: it writes the row
    /// of a key, whose values are the first arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// The columns that are written. Other columns keep their values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<Assignment>,
    /// The version column. A change with a lower version than the stored row does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    #[serde(default, skip_serializing_if = "OnMiss::is_ignore")]
    pub on_miss: OnMiss,
}

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum StatementKind {
    /// Inserts the row of the key, or applies the operations to the stored row.
    Upsert,
    /// Inserts the row of the key, unless a row with this key is stored.
    InsertOnce,
    /// Applies the operations to the selected rows.
    Update,
    /// Deletes the selected rows. With a guard, a tombstone is left for the key.
    Delete,
}

/// What becomes of an event whose update or delete selects no row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum OnMiss {
    /// The change does nothing.
    #[default]
    Ignore,
    /// The event is rejected with the code `missed`.
    Reject,
}

impl OnMiss {
    fn is_ignore(&self) -> bool {
        *self == OnMiss::Ignore
    }
}

/// A column that a statement writes, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Assignment {
    pub column: String,
    #[serde(default, skip_serializing_if = "Operation::is_set")]
    pub operation: Operation,
}

/// How an argument is combined with the stored value. An inserted row takes the argument.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Operation {
    /// Stores the argument.
    #[default]
    Set,
    /// Stores the sum, of an int64 or decimal. Null counts as 0, unless both are null.
    Add,
    /// Stores the smaller value. Null is replaced by the other value.
    Min,
    /// Stores the larger value. Null is replaced by the other value.
    Max,
    /// Keeps the stored value, unless it is null. Then stores the argument.
    SetIfNull,
    /// Keeps the stored value, even if it is null.
    Keep,
}

impl Operation {
    fn is_set(&self) -> bool {
        *self == Operation::Set
    }
}

/// A typed read: the rows of one table whose columns equal the arguments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lookup {
    /// The lookup's name, for people and metrics: lowercase letters, digits, dashes, dots and underscores, at most 63
    /// characters.
    pub name: String,
    /// The name of the table that the lookup reads.
    pub table: String,
    /// The columns that select the rows: the key, or the first columns of an index.
    pub by: Vec<String>,
    /// The columns that are returned, in this order.
    pub columns: Vec<String>,
    /// The largest number of rows that are returned, in the order of the key. 1 if `by` is the key.
    #[serde(default = "one_row")]
    pub limit: u32,
}

fn one_row() -> u32 {
    1
}

/// A reason for which the plugin ignores or rejects events. Such events are counted by their code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Code {
    /// Lowercase letters, digits and dashes: `old-schema`.
    pub code: String,
    /// What the code means, in a sentence for the operator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub meaning: String,
}

impl Descriptor {
    /// Reads a descriptor. The error names the place, and the most similar field that is allowed there.
    pub fn from_json(json: &str) -> Result<Self, Problems> {
        let deserializer = &mut serde_json::Deserializer::from_str(json);
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let place = error.path().to_string();
            let message = error.inner().to_string();
            let remedy = problem::remedy_for_unknown_field(&message);
            Problems(vec![Problem { place, message, remedy }])
        })
    }

    /// The descriptor as JSON, which [`Descriptor::from_json`] reads.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a descriptor is plain data with string keys")
    }

    /// The JSON Schema of a descriptor, which is published as `wit/v1/descriptor.schema.json`.
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
