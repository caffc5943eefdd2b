//! The SQL of a component's statements and lookups in one generation, built once, and the rules by which they commute.
//!
//! Invariants: identifiers come from the checked contract and are quoted. Values are always bound, as one array for each
//! argument. Where lineage is written, three more arrays follow (topic, partition, offset), and then the digest as a single
//! value.

use projector_core::planner::Rules;
use projector_model::contract::Table;
use projector_model::descriptor::{OnMiss, Operation};
use projector_model::{Contract, Lookup, Type, Write, WriteKind};

use super::tables::qualified;
use super::values::{array_type, selected};
use crate::names::{DELETED, LINEAGE, quote};

pub(super) struct Statements {
    pub(super) rules: Rules,
    pub(super) writes: Vec<WriteSql>,
    pub(super) lookups: Vec<String>,
}

pub(super) struct WriteSql {
    pub(super) sql: String,
    /// Finds the first row, by its index in the arrays, that an update or a delete would miss. Only for `on-miss: reject`.
    pub(super) first_miss: Option<String>,
    /// The types of the arguments.
    pub(super) types: Vec<Type>,
    pub(super) writes_lineage: bool,
}

impl Statements {
    pub(super) fn of(contract: &Contract, schema: &str) -> Self {
        let table_of =
            |table: usize| (&contract.tables[table], qualified(schema, &contract.tables[table].name));
        let writes = contract
            .writes
            .iter()
            .map(|write| {
                let (table, name) = table_of(write.table);
                WriteSql {
                    sql: write_sql(write, table, &name),
                    first_miss: (write.on_miss == OnMiss::Reject)
                        .then(|| first_miss_sql(write, table, &name)),
                    types: write.argument_columns().map(|column| table.columns[column].ty).collect(),
                    writes_lineage: writes_lineage(write, table),
                }
            })
            .collect();
        let lookups = contract
            .lookups
            .iter()
            .map(|lookup| {
                let (table, name) = table_of(lookup.table);
                lookup_sql(lookup, table, &name)
            })
            .collect();
        Self { rules: Rules::of(contract), writes, lookups }
    }
}

fn write_sql(write: &Write, table: &Table, name: &str) -> String {
    match (write.kind, write.guard) {
        (WriteKind::Upsert | WriteKind::InsertOnce, _) => insert(write, table, name),
        (WriteKind::Delete, Some(_)) => leave_tombstone(write, table, name),
        (WriteKind::Update, _) => update(write, table, name),
        (WriteKind::Delete, None) => {
            format!(
                "delete from {name} as t using {} where {}{}",
                unnest(write, table),
                by(write, table),
                alive(table)
            )
        }
    }
}

fn insert(write: &Write, table: &Table, name: &str) -> String {
    let columns: Vec<usize> = write.argument_columns().collect();
    let (mut into, mut values) = (quoted(table, &columns), arguments(write, table));
    for (column, value) in lineage(write, table) {
        into.push(column.to_owned());
        values.push(value);
    }
    let head = format!(
        "insert into {name} as t ({}) select {} from {} on conflict ({})",
        into.join(", "),
        values.join(", "),
        unnest(write, table),
        quoted(table, &table.key).join(", ")
    );
    let guard = write.guard.map(|guard| {
        let version = quote(&table.columns[guard.column].name);
        format!("(t.{version} is null or t.{version} <= excluded.{version})")
    });
    let once = write.kind == WriteKind::InsertOnce;
    let mut set = Vec::new();
    for (at, column) in table.columns.iter().enumerate().filter(|(at, _)| !table.is_key_column(*at)) {
        let name = quote(&column.name);
        let listed = write.set.iter().find(|(listed, _)| *listed == at);
        // The value of a row that replaces a tombstone.
        let inserted = if listed.is_some() { format!("excluded.{name}") } else { "null".into() };
        let combined = match listed {
            Some((_, operation)) if !once => combined(*operation, &name, &format!("excluded.{name}")),
            _ => None,
        };
        match (table.has_tombstones, combined) {
            (true, combined) => {
                let kept = combined.unwrap_or_else(|| format!("t.{name}"));
                set.push(format!("{name} = case when t.{DELETED} then {inserted} else {kept} end"));
            }
            (false, Some(combined)) => set.push(format!("{name} = {combined}")),
            (false, None) => {}
        }
    }
    if table.has_tombstones {
        set.push(format!("{DELETED} = false"));
    }
    set.extend(lineage(write, table).iter().map(|(column, _)| format!("{column} = excluded.{column}")));
    if set.is_empty() || (once && !table.has_tombstones) {
        return format!("{head} do nothing");
    }
    let only_tombstones = once.then(|| format!("t.{DELETED}"));
    let conditions: Vec<_> = [guard, only_tombstones].into_iter().flatten().collect();
    let condition =
        if conditions.is_empty() { String::new() } else { format!(" where {}", conditions.join(" and ")) };
    format!("{head} do update set {}{condition}", set.join(", "))
}

fn update(write: &Write, table: &Table, name: &str) -> String {
    let arguments = arguments(write, table);
    let mut set: Vec<String> = Vec::new();
    for ((column, operation), argument) in write.set.iter().zip(&arguments[write.by.len()..]) {
        let name = quote(&table.columns[*column].name);
        let combined = combined(*operation, &name, argument).unwrap_or_else(|| format!("t.{name}"));
        set.push(format!("{name} = {combined}"));
    }
    set.extend(lineage(write, table).iter().map(|(column, value)| format!("{column} = {value}")));
    let guard = write.guard.map_or(String::new(), |guard| {
        let version = quote(&table.columns[guard.column].name);
        format!(" and (t.{version} is null or t.{version} <= {})", arguments[guard.argument])
    });
    format!(
        "update {name} as t set {} from {} where {}{guard}{}",
        set.join(", "),
        unnest(write, table),
        by(write, table),
        alive(table)
    )
}

fn leave_tombstone(write: &Write, table: &Table, name: &str) -> String {
    let columns: Vec<usize> = write.argument_columns().collect();
    let mut set: Vec<String> = (0..table.columns.len())
        .filter(|at| !table.is_key_column(*at))
        .map(|at| {
            let name = quote(&table.columns[at].name);
            let value = if columns.contains(&at) { format!("excluded.{name}") } else { "null".into() };
            format!("{name} = {value}")
        })
        .collect();
    set.push(format!("{DELETED} = true"));
    let (mut into, mut values) = (quoted(table, &columns), arguments(write, table));
    into.push(DELETED.to_owned());
    values.push("true".to_owned());
    for (column, value) in lineage(write, table) {
        set.push(format!("{column} = excluded.{column}"));
        into.push(column.to_owned());
        values.push(value);
    }
    let version = columns.last().map(|column| quote(&table.columns[*column].name)).unwrap_or_default();
    format!(
        "insert into {name} as t ({}) select {} from {} on conflict ({}) do update set {} where t.{version} is null or t.{version} <= excluded.{version}",
        into.join(", "),
        values.join(", "),
        unnest(write, table),
        quoted(table, &table.key).join(", "),
        set.join(", ")
    )
}

fn first_miss_sql(write: &Write, table: &Table, name: &str) -> String {
    format!(
        "select u.ord from {} where not exists (select from {name} as t where {}{}) order by u.ord limit 1",
        unnest_with_ordinality(write, table),
        by(write, table),
        alive(table)
    )
}

fn lookup_sql(lookup: &Lookup, table: &Table, name: &str) -> String {
    let arrays: Vec<_> = lookup
        .by
        .iter()
        .enumerate()
        .map(|(at, column)| format!("${}::{}", at + 1, array_type(table.columns[*column].ty).0))
        .collect();
    let aliases: Vec<_> = (0..lookup.by.len()).map(|at| format!("a{at}")).collect();
    let matches: Vec<_> = lookup
        .by
        .iter()
        .enumerate()
        .map(|(at, column)| {
            format!(
                "t.{} = {}",
                quote(&table.columns[*column].name),
                cast(&format!("u.a{at}"), table.columns[*column].ty)
            )
        })
        .collect();
    let column = |at: &usize| format!("t.{}", quote(&table.columns[*at].name));
    let mut columns: Vec<String> =
        table.key.iter().enumerate().map(|(at, key)| format!("{} as k{at}", column(key))).collect();
    let key: Vec<_> = table.key.iter().map(column).collect();
    let in_order: Vec<_> = (0..table.key.len()).map(|at| format!(", r.k{at}")).collect();
    let returned = lookup.read_columns(table);
    columns.extend(returned.iter().enumerate().map(|(at, returned)| {
        format!("{} as c{at}", selected(&column(returned), table.columns[*returned].ty))
    }));
    let mut read: Vec<String> = (0..returned.len()).map(|at| format!("r.c{at}")).collect();
    let alive = if lookup.is_by_key(table) { String::new() } else { alive(table) };
    if lookup.is_by_key(table) && table.has_tombstones {
        columns.push(format!("t.{DELETED}"));
        read.push(format!("r.{DELETED}"));
    }
    // `offset 0` keeps the planner from merging the two queries: rows are found by the lookup's columns, and sorted after
    // that. Otherwise the planner may read all of an index in the order of the key, until enough rows match.
    format!(
        "select u.ord, {} from unnest({}) with ordinality as u({}, ord) cross join lateral (select {} from (select * from {name} as t where {}{alive} offset 0) as t order by {} limit {}) as r order by u.ord{}",
        read.join(", "),
        arrays.join(", "),
        aliases.join(", "),
        columns.join(", "),
        matches.join(" and "),
        key.join(", "),
        lookup.limit,
        in_order.concat(),
    )
}

/// The stored value combined with the argument. `None`: the stored value stays.
fn combined(operation: Operation, column: &str, argument: &str) -> Option<String> {
    match operation {
        Operation::Set => Some(argument.to_owned()),
        Operation::Add => Some(format!("coalesce(t.{column} + {argument}, t.{column}, {argument})")),
        Operation::Min => Some(format!("least(t.{column}, {argument})")),
        Operation::Max => Some(format!("greatest(t.{column}, {argument})")),
        Operation::SetIfNull => Some(format!("coalesce(t.{column}, {argument})")),
        Operation::Keep => None,
    }
}

/// The arguments as expressions over the rows of the arrays, each cast to the type of its column.
fn arguments(write: &Write, table: &Table) -> Vec<String> {
    write
        .argument_columns()
        .enumerate()
        .map(|(at, column)| cast(&format!("u.a{at}"), table.columns[column].ty))
        .collect()
}

fn cast(expression: &str, ty: Type) -> String {
    match array_type(ty).1 {
        Some(cast) => format!("{expression}::{cast}"),
        None => expression.to_owned(),
    }
}

/// A delete without a tombstone leaves no row that could have a lineage.
fn writes_lineage(write: &Write, table: &Table) -> bool {
    table.has_lineage && (write.kind != WriteKind::Delete || write.guard.is_some())
}

/// The columns of the lineage, if it is written, and their new values.
fn lineage(write: &Write, table: &Table) -> Vec<(&'static str, String)> {
    if !writes_lineage(write, table) {
        return Vec::new();
    }
    let [topic, partition, offset, digest] = LINEAGE;
    let position = [topic, partition, offset].map(|column| (column, format!("u.{column}")));
    let last = write.argument_count() + LINEAGE.len();
    position.into_iter().chain([(digest, format!("${last}::text"))]).collect()
}

fn unnest(write: &Write, table: &Table) -> String {
    let (mut arrays, mut aliases) = arrays(write, table);
    if writes_lineage(write, table) {
        let first = arrays.len() + 1;
        let types = ["text[]", "int4[]", "int8[]"].into_iter().enumerate();
        arrays.extend(types.map(|(at, ty)| format!("${}::{ty}", first + at)));
        aliases.extend(LINEAGE[..3].iter().map(|column| (*column).to_owned()));
    }
    format!("unnest({}) as u({})", arrays.join(", "), aliases.join(", "))
}

fn unnest_with_ordinality(write: &Write, table: &Table) -> String {
    let (arrays, aliases) = arrays(write, table);
    format!("unnest({}) with ordinality as u({}, ord)", arrays.join(", "), aliases.join(", "))
}

/// The arrays of the arguments, and the names of their elements.
fn arrays(write: &Write, table: &Table) -> (Vec<String>, Vec<String>) {
    let arrays: Vec<String> = write
        .argument_columns()
        .enumerate()
        .map(|(at, column)| format!("${}::{}", at + 1, array_type(table.columns[column].ty).0))
        .collect();
    let aliases = (0..arrays.len()).map(|at| format!("a{at}")).collect();
    (arrays, aliases)
}

fn by(write: &Write, table: &Table) -> String {
    let arguments = arguments(write, table);
    table
        .column_names(&write.by)
        .zip(&arguments)
        .map(|(column, argument)| format!("t.{} = {argument}", quote(column)))
        .collect::<Vec<_>>()
        .join(" and ")
}

fn alive(table: &Table) -> String {
    if table.has_tombstones { format!(" and not t.{DELETED}") } else { String::new() }
}

fn quoted(table: &Table, columns: &[usize]) -> Vec<String> {
    table.column_names(columns).map(quote).collect()
}
