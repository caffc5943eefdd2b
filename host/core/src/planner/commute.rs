//! Which statements of a table may change places, decided once, from their declarations.
//!
//! Two changes commute if both orders leave the same rows and reject the same events; in a table with
//! lineage, also the same last writer of each row. A statement *by key* affects the one row that its
//! arguments name. A statement *by other columns* affects the rows that match when it runs, so it commutes
//! with a write by key only if that write leaves no column of the row unknown.

use std::collections::BTreeSet;
use std::fmt;

use projector_model::descriptor::{OnMiss, Operation};
use projector_model::{Contract, Type, Write, WriteKind};

/// How two statements of one table stand to each other. Symmetric.
#[derive(Debug, Clone, PartialEq)]
pub enum Relation {
    /// They commute, whatever their arguments are.
    Free,
    /// Both by key: they commute unless they touch the same row.
    OtherKeys,
    /// One by key, one by other columns: they commute for the rows that `Known` describes.
    OtherRows(Known),
    Never(Reason),
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Relation::Free => f.write_str("commute"),
            Relation::OtherKeys => f.write_str("commute, unless they touch the same key"),
            Relation::OtherRows(Known { patch: Some(_), .. }) => {
                f.write_str("commute; the update is written into pending rows that it would select")
            }
            Relation::OtherRows(Known { patch: None, .. }) => {
                f.write_str("commute, unless the row that the one writes is one that the other selects")
            }
            Relation::Never(reason) => write!(f, "keep their order: {reason}"),
        }
    }
}

/// A write by key that leaves known values in the columns by which another statement selects: they
/// commute unless the row is one of those selected.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Where the selecting columns' values stand in the arguments of the write by key.
    pub(super) selected_by: Vec<usize>,
    /// How an update that selects the row is written into the row's own arguments instead. `None`:
    /// it cannot be.
    pub(super) patch: Option<Vec<Patch>>,
}

/// One column of a patch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Patch {
    /// The argument of the write by key that is patched.
    pub(super) argument: usize,
    pub(super) operation: Operation,
    /// The argument of the update.
    pub(super) with: usize,
    pub(super) ty: Type,
}

/// Why two statements must keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A guard decides by a version that the other may change, or that is not known yet.
    Guard,
    /// Whether an `on-miss: reject` finds a row depends on the other.
    Miss,
    /// A sum may overflow on a row that only one of the orders shows to it.
    Sum,
    /// An update sets the columns by which it, or the other, selects.
    Moves,
    /// Both write a column of rows that neither names.
    SameColumns,
    /// The row that the write by key leaves is not known in the columns that matter.
    UnknownRow,
    /// Both may write one row, and its lineage is that of the later one.
    Lineage,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Guard => "a guard decides by a version that is not known before it runs",
            Reason::Miss => "whether `on-miss: reject` finds a row may depend on the other",
            Reason::Sum => "a sum could overflow on a row that only one of the orders shows to it",
            Reason::Moves => "one sets a column by which the other, or itself, selects rows",
            Reason::SameColumns => "both write the same column of rows that are selected by other columns",
            Reason::UnknownRow => {
                "the write by key does not `set` every column that the other selects by and writes"
            }
            Reason::Lineage => "both may write one row, whose lineage names the one that was last",
        })
    }
}

/// The relations of all statements of a contract.
#[derive(Debug, Clone)]
pub struct Rules {
    /// By statement and statement.
    relations: Vec<Vec<Relation>>,
}

impl Rules {
    pub fn of(contract: &Contract) -> Self {
        let related = |a: &Write| contract.writes.iter().map(|b| relation(contract, a, b)).collect();
        Self { relations: contract.writes.iter().map(related).collect() }
    }

    pub fn relation(&self, a: u16, b: u16) -> &Relation {
        &self.relations[usize::from(a)][usize::from(b)]
    }
}

fn relation(contract: &Contract, a: &Write, b: &Write) -> Relation {
    if a.table != b.table {
        return Relation::Free;
    }
    let lineage = contract.tables[a.table].has_lineage;
    match (contract.is_by_key(a), contract.is_by_key(b)) {
        (true, true) if !lineage && commute_on_one_row(a, b) => Relation::Free,
        (true, true) => Relation::OtherKeys,
        (true, false) => by_key_and_by_others(contract, a, b),
        (false, true) => by_key_and_by_others(contract, b, a),
        (false, false) => of_existing_rows(a, b, lineage),
    }
}

/// Two upserts, or two updates, of different columns. A missing row is missed by both updates; of
/// two upserts the first inserts it with nulls in the other's columns, and every operation but
/// `keep` makes of a null what an insert makes of nothing.
fn commute_on_one_row(a: &Write, b: &Write) -> bool {
    let keeps = |write: &Write| write.set.iter().any(|(_, operation)| *operation == Operation::Keep);
    let alike = match (a.kind, b.kind) {
        (WriteKind::Upsert, WriteKind::Upsert) => !keeps(a) && !keeps(b),
        (WriteKind::Update, WriteKind::Update) => true,
        _ => false,
    };
    alike && a.guard.is_none() && b.guard.is_none() && columns(a).is_disjoint(&columns(b))
}

/// `key` touches one row; `others` selects by other columns.
///
/// An upsert that sets every column that `others` writes makes the row forget whether `others`
/// touched it before, so only the row that it leaves counts: that row is selected, or is not. Its
/// lineage is that of the upsert then, or of the update that is written into it.
fn by_key_and_by_others(contract: &Contract, key: &Write, others: &Write) -> Relation {
    if key.guard.is_some() || others.guard.is_some() {
        return Relation::Never(Reason::Guard);
    }
    if others.on_miss == OnMiss::Reject {
        return Relation::Never(Reason::Miss);
    }
    if adds(others) {
        return Relation::Never(Reason::Sum);
    }
    if moves(others, others) {
        return Relation::Never(Reason::Moves);
    }
    match key.kind {
        // The row is gone afterwards, whatever was written to it before.
        WriteKind::Delete if others.kind == WriteKind::Delete && key.on_miss == OnMiss::Reject => {
            Relation::Never(Reason::Miss)
        }
        WriteKind::Delete => Relation::Free,
        WriteKind::Update => of_existing_rows(key, others, contract.tables[key.table].has_lineage),
        // The row that is there already stays, so a delete before it would let it in.
        WriteKind::InsertOnce if others.kind == WriteKind::Delete => Relation::Never(Reason::UnknownRow),
        WriteKind::InsertOnce => match selected_by(key, others) {
            Some(selected_by) => {
                Relation::OtherRows(Known { selected_by, patch: patch(contract, key, others) })
            }
            // A column that is not listed is null, which nothing selects.
            None => Relation::Free,
        },
        WriteKind::Upsert => {
            let table = &contract.tables[key.table];
            let forgets = |column: usize| table.is_key_column(column) || argument_set(key, column).is_some();
            let written: BTreeSet<usize> = match others.kind {
                WriteKind::Delete => (0..table.columns.len()).collect(),
                _ => columns(others),
            };
            match selected_by(key, others) {
                Some(selected_by) if written.into_iter().all(forgets) => {
                    Relation::OtherRows(Known { selected_by, patch: patch(contract, key, others) })
                }
                _ => Relation::Never(Reason::UnknownRow),
            }
        }
    }
}

/// Updates and deletes of existing rows: neither may change what the other selects, nor what
/// it finds; nor, with lineage, write the rows that the other writes.
fn of_existing_rows(a: &Write, b: &Write, lineage: bool) -> Relation {
    if moves(a, a) || moves(b, b) || moves(a, b) || moves(b, a) {
        return Relation::Never(Reason::Moves);
    }
    let reason = match (a.kind, b.kind) {
        (WriteKind::Delete, WriteKind::Delete) => {
            let may_miss = a.on_miss == OnMiss::Reject || b.on_miss == OnMiss::Reject;
            may_miss.then_some(Reason::Miss)
        }
        (WriteKind::Delete, _) => reason_against_delete(b),
        (_, WriteKind::Delete) => reason_against_delete(a),
        _ if !columns(a).is_disjoint(&columns(b)) => Some(Reason::SameColumns),
        _ => lineage.then_some(Reason::Lineage),
    };
    reason.map_or(Relation::Free, Relation::Never)
}

/// Why an update may not run after a delete of rows that it selects: what it would notice.
fn reason_against_delete(update: &Write) -> Option<Reason> {
    if update.on_miss == OnMiss::Reject {
        return Some(Reason::Miss);
    }
    adds(update).then_some(Reason::Sum)
}

fn columns(write: &Write) -> BTreeSet<usize> {
    write.set.iter().map(|(column, _)| *column).collect()
}

fn adds(write: &Write) -> bool {
    write.set.iter().any(|(_, operation)| *operation == Operation::Add)
}

/// Whether `one` sets a column by which `other` selects.
fn moves(one: &Write, other: &Write) -> bool {
    one.set.iter().any(|(column, _)| other.by.contains(column))
}

/// The argument that a column takes as it is.
fn argument_set(write: &Write, column: usize) -> Option<usize> {
    let at = write.set.iter().position(|(set, operation)| *set == column && *operation == Operation::Set)?;
    Some(write.by.len() + at)
}

/// Where the values of the selecting columns stand in the arguments of a write by key. `None`: one
/// of them is not set.
fn selected_by(key: &Write, others: &Write) -> Option<Vec<usize>> {
    let position =
        |column: &usize| key.by.iter().position(|by| by == column).or_else(|| argument_set(key, *column));
    others.by.iter().map(position).collect()
}

/// `None`: a delete, or a column that the write by key does not set.
fn patch(contract: &Contract, key: &Write, others: &Write) -> Option<Vec<Patch>> {
    if others.kind == WriteKind::Delete {
        return None;
    }
    let columns = &contract.tables[key.table].columns;
    let patch = |(at, (column, operation)): (usize, &(usize, Operation))| {
        Some(Patch {
            argument: argument_set(key, *column)?,
            operation: *operation,
            with: others.by.len() + at,
            ty: columns[*column].ty,
        })
    };
    others.set.iter().enumerate().map(patch).collect()
}
