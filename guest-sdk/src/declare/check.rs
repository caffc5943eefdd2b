//! Checks of declarations that run while a plugin compiles. A panic in here is a compile error at the author's line.

use super::table::TableDeclaration;

/// For each field of an upsert: its position among the arguments. The columns of the key come first, in the key's order,
/// then the other columns in the order of the fields.
///
/// # Panics
///
/// If the fields lack a column that is not nullable, so that no row could be inserted.
#[track_caller]
pub const fn argument_positions<const N: usize>(table: &TableDeclaration, fields: [&str; N]) -> [usize; N] {
    let mut at = 0;
    while at < table.columns.len() {
        let column = &table.columns[at];
        if !column.nullable && position(&fields, column.name).is_none() {
            refuse(&[
                "an upsert of `",
                table.name,
                "` must be able to insert a row, but has no field for column `",
                column.name,
                "`, which is never null: add the field, with #[operation(keep)] if a stored value must stay",
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

/// Checks that an update does not change the key of a row.
///
/// # Panics
///
/// If one of the columns that are set belongs to the key.
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
                "`, and the key of a row never changes: list the field in `by(…)`, or remove it",
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

/// Panics with one message of all parts. A constant expression cannot use `format!`.
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
        Err(_) => panic!("a declaration is wrong, but its names are too long for an error message"),
    }
}
