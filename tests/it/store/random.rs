//! Random projections and events, from few values, so that keys collide and sums overflow.
//!
//! The planner's unit tests use this file as well: the host and its stores are held against the
//! model by the same dice.

use std::fmt;

use projector_model::descriptor::{
    Assignment, Column, Descriptor, Index, IndexKind, OnMiss, Operation, Statement, StatementKind, Table,
    Topic,
};
use projector_model::{Change, Contract, Decimal, Type, Value};
use proptest::collection::vec;
use proptest::prelude::*;

/// Random numbers that proptest can shrink: what is left out counts as zero.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) Vec<u16>);

impl fmt::Debug for Dice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

pub(crate) struct Throws<'d>(std::slice::Iter<'d, u16>);

impl Dice {
    pub(crate) fn throws(&self) -> Throws<'_> {
        Throws(self.0.iter())
    }
}

impl Throws<'_> {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or_default()) % bound
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == chances - 1
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// The numbers behind a projection and several batches of events.
pub(crate) type Numbers = (Dice, Vec<Vec<Dice>>);

pub(crate) fn numbers(batches: usize, events: usize) -> impl Strategy<Value = Numbers> {
    let dice = |most: usize| vec(any::<u16>(), 0..=most).prop_map(Dice);
    (vec(any::<u16>(), 150).prop_map(Dice), vec(vec(dice(20), 0..=events), 1..=batches))
}

const DECIMALS: [Type; 2] =
    [Type::Decimal { precision: 3, scale: 1 }, Type::Decimal { precision: 38, scale: 2 }];
const KEY_TYPES: [Type; 8] = [
    Type::Int64,
    Type::Text,
    DECIMALS[0],
    Type::Boolean,
    Type::Bytes,
    Type::Timestamp,
    Type::Date,
    Type::Uuid,
];
const VERSION_TYPES: [Type; 4] = [Type::Int64, Type::Timestamp, DECIMALS[0], Type::Text];
const TYPES: [Type; 11] = [
    Type::Int64,
    DECIMALS[0],
    DECIMALS[1],
    Type::Text,
    Type::Float64,
    Type::Timestamp,
    Type::Date,
    Type::Json,
    Type::Bytes,
    Type::Boolean,
    Type::Uuid,
];

/// A projection that passes the check. Every table has a key of one or two columns, a column `grp`
/// with an index, a column `version`, and others.
pub(crate) fn descriptor(name: &str, throws: &mut Throws<'_>) -> Descriptor {
    let tables: Vec<Table> = (0..1 + throws.below(2)).map(|at| table(at, throws)).collect();
    let statements: Vec<Statement> = (0..2 + throws.below(6))
        .map(|at| {
            let table = throws.pick(&tables);
            statement(format!("s{at}"), table, throws)
        })
        .collect();
    Descriptor {
        name: name.into(),
        version: "1".into(),
        revision: 1,
        topics: vec![Topic {
            name: "t".into(),
            statements: statements.iter().map(|statement| statement.name.clone()).collect(),
            lookups: Vec::new(),
            event_id: None,
            ordering_group: None,
            wait_seconds: None,
        }],
        tables,
        statements,
        lookups: Vec::new(),
        ignores: Vec::new(),
        rejects: Vec::new(),
    }
}

fn table(at: usize, throws: &mut Throws<'_>) -> Table {
    let column = |name: String, ty: Type, nullable: bool| Column { name, ty, nullable };
    let key: Vec<String> = (0..1 + throws.below(2)).map(|at| format!("key{at}")).collect();
    let mut columns: Vec<Column> =
        key.iter().map(|name| column(name.clone(), *throws.pick(&KEY_TYPES), false)).collect();
    columns.push(column("grp".into(), *throws.pick(&KEY_TYPES), throws.one_in(2)));
    columns.push(column("version".into(), *throws.pick(&VERSION_TYPES), throws.one_in(2)));
    for at in 0..throws.below(4) {
        columns.push(column(format!("c{at}"), *throws.pick(&TYPES), throws.one_in(2)));
    }
    let index = Index { columns: vec!["grp".into()], kind: IndexKind::Ordered };
    Table { name: format!("t{at}"), columns, key, indexes: vec![index], lineage: throws.one_in(2) }
}

fn statement(name: String, table: &Table, throws: &mut Throws<'_>) -> Statement {
    let kind = *throws.pick(&[
        StatementKind::Upsert,
        StatementKind::Upsert,
        StatementKind::InsertOnce,
        StatementKind::Update,
        StatementKind::Update,
        StatementKind::Delete,
    ]);
    let inserts = matches!(kind, StatementKind::Upsert | StatementKind::InsertOnce);
    let by_key = inserts || throws.one_in(2);
    // Updates of few columns, so that some have none in common.
    let chances = if kind == StatementKind::Update { 4 } else { 2 };
    let mut set: Vec<Assignment> = Vec::new();
    if kind != StatementKind::Delete {
        for column in table.columns.iter().filter(|column| !table.key.contains(&column.name)) {
            let needed = inserts && !column.nullable;
            if needed || throws.one_in(chances) {
                let operation = match kind {
                    StatementKind::InsertOnce => Operation::Set,
                    _ => *throws.pick(&operations(column)),
                };
                set.push(Assignment { column: column.name.clone(), operation });
            }
        }
        if set.is_empty() && kind == StatementKind::Update {
            set.push(Assignment { column: "version".into(), operation: Operation::Set });
        }
    }
    let sets_version = set.iter().any(|one| one.column == "version" && one.operation == Operation::Set);
    let may_guard = match kind {
        StatementKind::Upsert | StatementKind::Update => sets_version,
        StatementKind::Delete => by_key,
        StatementKind::InsertOnce => false,
    };
    let by = match (inserts, by_key) {
        (true, _) => Vec::new(),
        (false, true) if throws.one_in(2) => table.key.iter().rev().cloned().collect(),
        (false, true) => table.key.clone(),
        (false, false) => vec!["grp".into()],
    };
    Statement {
        name,
        table: table.name.clone(),
        kind,
        by,
        set,
        guard: (may_guard && throws.one_in(2)).then(|| "version".into()),
        on_miss: if !inserts && throws.one_in(4) { OnMiss::Reject } else { OnMiss::Ignore },
    }
}

/// The operations that are defined for a column; `set` more often than others.
fn operations(column: &Column) -> Vec<Operation> {
    let mut operations = vec![Operation::Set, Operation::Set, Operation::Keep];
    if column.nullable {
        operations.push(Operation::SetIfNull);
    }
    if column.ty.is_addable() {
        operations.extend([Operation::Add; 4]);
    }
    if column.ty.is_ordered() {
        operations.extend([Operation::Min, Operation::Max]);
    }
    operations
}

/// One to three changes that fit their declarations.
pub(crate) fn event(contract: &Contract, dice: &Dice) -> Vec<Change> {
    let throws = &mut dice.throws();
    (0..1 + throws.below(3)).map(|_| change(contract, throws)).collect()
}

fn change(contract: &Contract, throws: &mut Throws<'_>) -> Change {
    let statement = throws.below(contract.writes.len());
    let write = &contract.writes[statement];
    let table = &contract.tables[write.table];
    let arguments = write
        .argument_columns()
        .enumerate()
        .map(|(at, column)| {
            let declared = &table.columns[column];
            let must_be = at < write.by.len() || write.guard.is_some_and(|guard| guard.argument == at);
            if declared.nullable && !must_be && throws.one_in(4) {
                return Value::Null;
            }
            value(declared.ty, at < write.by.len(), throws)
        })
        .collect();
    let mut change = Change { statement: statement as u16, arguments };
    contract.fit(&mut change).expect("made to fit");
    change
}

/// One of few values; of very few, where it selects rows.
pub(crate) fn value(ty: Type, selects: bool, throws: &mut Throws<'_>) -> Value {
    let values = values(ty);
    let most = if selects { values.len().min(3) } else { values.len() };
    values[throws.below(most)].clone()
}

fn values(ty: Type) -> Vec<Value> {
    let decimal = |text: &str| Value::Decimal(text.parse::<Decimal>().expect(text));
    match ty {
        Type::Boolean => vec![Value::Boolean(false), Value::Boolean(true)],
        Type::Int64 => {
            [1, 2, -1, 0, 10, i64::MAX, i64::MAX - 1, i64::MIN, i64::MIN + 1].map(Value::Int64).into()
        }
        Type::Float64 => [0.0, -0.0, -1.5, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, 5e-324, 0.1]
            .map(Value::Float64)
            .into(),
        Type::Decimal { precision: 3, .. } => {
            ["9.5", "10", "-0.1", "0", "1.50", "99.9", "-99.9", "0.1"].map(decimal).into()
        }
        Type::Decimal { .. } => [
            "1",
            "-1.25",
            "0",
            "0.01",
            "999999999999999999999999999999999999.99",
            "-999999999999999999999999999999999999.99",
        ]
        .map(decimal)
        .into(),
        Type::Text => ["a", "B", "", "é", "😀", "a b"].map(|text| Value::Text(text.into())).into(),
        Type::Bytes => [&[1][..], &[], &[0, 255], &[0]].map(|bytes| Value::Bytes(bytes.into())).into(),
        Type::Json => ["{}", "null", r#"{"a":[1,2.5]}"#, r#""\u00e9""#, "[]"]
            .map(|text| Value::Json(text.into()))
            .into(),
        Type::Timestamp => {
            [0, 1, -1, -62_135_596_800_000_000, 253_402_300_799_999_999].map(Value::Timestamp).into()
        }
        Type::Date => [0, 1, -719_162, 2_932_896].map(Value::Date).into(),
        Type::Uuid => [[0; 16], [255; 16], [0x12; 16]].map(Value::Uuid).into(),
    }
}
