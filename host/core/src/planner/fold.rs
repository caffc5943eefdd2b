//! Folds two changes of the same statement and key into one, if that provably gives the same row.

use projector_model::contract::Column;
use projector_model::descriptor::{OnMiss, Operation};
use projector_model::interpret::combine;
use projector_model::{Value, Write, WriteKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fold {
    /// One change for both; where it writes, the later one wrote last.
    Later,
    /// The earlier change as it was, which leaves nothing to do to the later one.
    Earlier,
    /// Left as it was: the later change needs a statement of its own.
    Impossible,
}

/// An update whose `by` column it also sets moves rows from one selection to another: which row a
/// change touches depends on every change before it.
pub(super) fn selects_by_what_it_sets(write: &Write) -> bool {
    write.set.iter().any(|(column, _)| write.by.contains(column))
}

/// How changes of a statement with the same `by` values are folded, for a person.
pub fn folding(write: &Write) -> &'static str {
    if selects_by_what_it_sets(write) {
        "each is a statement of its own: it sets the columns by which it selects"
    } else if write.kind == WriteKind::Delete && write.on_miss == OnMiss::Reject {
        "not folded: a second one must find that the row is gone"
    } else if write.guard.is_some() && !write.only_sets() {
        "not folded: the guard may let only one of them pass"
    } else if write.guard.is_some() {
        "folded into the one with the highest version"
    } else if write.set.iter().any(|(_, operation)| *operation == Operation::Add) {
        "folded, as long as the sums have one sign and do not overflow"
    } else {
        "folded"
    }
}

/// Folds a later change into an earlier one with the same `by` values.
///
/// Operations are associative, so `op(op(stored, earlier), later)` is
/// `op(stored, op(earlier, later))`, and a row that is inserted takes `op(earlier, later)` either
/// way. Three things break that: a sum that would overflow half way, a guard that lets only one of
/// the two pass, and a second delete that must not miss.
pub(super) fn fold(write: &Write, columns: &[Column], earlier: &mut Vec<Value>, later: &[Value]) -> Fold {
    if write.kind == WriteKind::Delete && write.on_miss == OnMiss::Reject {
        return Fold::Impossible;
    }
    if let Some(guard) = write.guard {
        // With nothing but `set`, the higher version's values are the outcome, whatever version
        // is stored before, between or after them.
        if !write.only_sets() {
            return Fold::Impossible;
        }
        if later[guard.argument] < earlier[guard.argument] {
            return Fold::Earlier;
        }
        *earlier = later.to_vec();
        return Fold::Later;
    }
    match write.kind {
        WriteKind::InsertOnce | WriteKind::Delete => Fold::Earlier,
        WriteKind::Upsert | WriteKind::Update => fold_operations(write, columns, earlier, later),
    }
}

fn fold_operations(write: &Write, columns: &[Column], earlier: &mut [Value], later: &[Value]) -> Fold {
    let first = write.by.len();
    let mut folded = Vec::with_capacity(write.set.len());
    for (at, (column, operation)) in write.set.iter().enumerate() {
        let (a, b) = (&earlier[first + at], &later[first + at]);
        if *operation == Operation::Add && opposed(a, b) {
            return Fold::Impossible;
        }
        match combine(*operation, a, b, columns[*column].ty) {
            Some(value) => folded.push(value),
            None => return Fold::Impossible,
        }
    }
    earlier[first..].clone_from_slice(&folded);
    Fold::Later
}

/// Whether a sum goes both up and down: it could leave the range half way and come back, which one
/// statement would not see.
fn opposed(a: &Value, b: &Value) -> bool {
    let sign = |value: &Value| match value {
        Value::Int64(number) => number.signum() as i128,
        Value::Decimal(number) => number.units().signum(),
        _ => 0,
    };
    sign(a) * sign(b) < 0
}
