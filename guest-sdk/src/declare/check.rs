//! Checks of declarations while a plugin compiles: a panic in here is an error at the author's
//! line.

use super::table::TableDeclaration;

/// Where the fields of an upsert stand among its arguments: the key's columns first, in the key's
/// order, then the others in the fields' order.
///
/// # Panics
///
/// If a column is missing without which no row could be inserted.
#[track_caller]
pub const fn argument_positions<const N: usize>(table: &TableDeclaration, fields: [&str; N]) -> [usize; N] {
    let mut at = 0;
    while at < table.columns.len() {
        let column = &table.columns[at];
        if !column.nullable && position(&fields, column.name).is_none() {
            refuse(&[
                "an upsert of `",
                table.name,
                "` must be able to insert a row, and column `",
                column.name,
                "`, which is never null, is not among its fields: add it, with #[operation(keep)] if a stored value shall stay",
            ]);
        }
        at += 1;
    }
    let mut positions = [0; N];
    let (mut field, mut next) = (0, table.key.len());
    while field < N {
        positions[field] = match position(table.key, fields[field]) {
            Some(in_key) => in_key,
            None => {
                next += 1;
                next - 1
            }
        };
        field += 1;
    }
    positions
}

/// # Panics
///
/// If a column that is set belongs to the key.
#[track_caller]
pub const fn all_keep_the_key(table: &TableDeclaration, set: &[&str]) {
    let mut at = 0;
    while at < set.len() {
        if position(table.key, set[at]).is_some() {
            refuse(&[
                "column `",
                set[at],
                "` belongs to the key of `",
                table.name,
                "`, which a row keeps for life: name it in `by(…)`, or take it away",
            ]);
        }
        at += 1;
    }
}

const fn position(names: &[&str], name: &str) -> Option<usize> {
    let mut at = 0;
    while at < names.len() {
        if is_same(names[at].as_bytes(), name.as_bytes()) {
            return Some(at);
        }
        at += 1;
    }
    None
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Panics with all parts in one message, which a constant cannot format.
#[track_caller]
const fn refuse(parts: &[&str]) -> ! {
    let mut message = [b' '; 512];
    let (mut part, mut end) = (0, 0);
    while part < parts.len() {
        let bytes = parts[part].as_bytes();
        let mut at = 0;
        while at < bytes.len() && end < message.len() {
            message[end] = bytes[at];
            at += 1;
            end += 1;
        }
        part += 1;
    }
    match std::str::from_utf8(message.split_at(end).0) {
        Ok(message) => panic!("{}", message),
        Err(_) => panic!("a declaration is wrong, and its names are too long to say where"),
    }
}
