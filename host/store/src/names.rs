//! Names in the stores' SQL.

/// The column that marks a tombstone. Authors' own identifiers never begin with an underscore.
pub(crate) const DELETED: &str = "\"_deleted\"";

/// The columns of a row's lineage: the position of the event that wrote the row last, and the digest of the component.
pub(crate) const LINEAGE: [&str; 4] = ["\"_topic\"", "\"_partition\"", "\"_offset\"", "\"_digest\""];

/// Quotes an identifier. The check of the descriptor allows no quote in it; this function doubles them all the same.
pub(crate) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
