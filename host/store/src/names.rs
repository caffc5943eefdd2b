//! Names in the stores' SQL.

/// The column of a tombstone's flag. Authors' own identifiers never begin with an underscore.
pub(super) const DELETED: &str = "\"_deleted\"";

/// The columns of a row's lineage: where the event stands that wrote it last, and the plugin that did.
pub(super) const LINEAGE: [&str; 4] = ["\"_topic\"", "\"_partition\"", "\"_offset\"", "\"_digest\""];

/// Quotes an identifier. The contract's check lets no quote through; this doubles them all the
/// same.
pub(super) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
