//! What a plugin answers: any change, in any number.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use order_search::OrderSearch;
use projector::validate;
use projector_core::failure::FailureKind;
use projector_model::change::codes;
use projector_model::{Change, Contract, Decimal, LookupCall, Tables, Type, Value};
use projector_sdk::Projection;

use crate::{CONTRACT, Shape, Target, checked};

pub(crate) const TARGET: Target =
    Target { name: "changes", check, seeds, most_bytes: 1_024, shape: Shape::Free };

static CONTRACTS: LazyLock<[Contract; 2]> =
    LazyLock::new(|| [CONTRACT.clone(), checked(&OrderSearch::descriptor().to_json())]);

/// What is taken can be applied, and is taken again as the same; the rows are then what their columns
/// allow. What is refused leaves the rows as they were.
fn check(bytes: &[u8]) -> bool {
    let mut input = Unstructured::new(bytes);
    let contract = &CONTRACTS[usize::from(input.arbitrary::<bool>().unwrap_or_default())];
    let mut tables = Tables::new(contract);
    let mut taken = false;
    while !input.is_empty() {
        let Ok((topic, changes)) = event(&mut input, contract) else { break };
        taken |= applied(contract, &mut tables, topic, changes);
        let Ok(call) = lookup(&mut input, contract) else { break };
        looked_up(contract, &tables, topic, call);
    }
    taken
}

fn applied(contract: &Contract, tables: &mut Tables, topic: u16, answered: Vec<Change>) -> bool {
    let mut changes = answered.clone();
    if let Err(failure) = validate::changes(contract, topic, &mut changes) {
        assert_eq!(failure.kind, FailureKind::Invalid);
        let known = [codes::INVALID_CHANGE, codes::INVALID_VALUE, codes::NULL_KEY];
        assert!(known.contains(&&*failure.code), "{failure}");
        return false;
    }
    let mut again = changes.clone();
    assert_eq!(validate::changes(contract, topic, &mut again), Ok(()));
    // By their digits, not by their value.
    assert_eq!(format!("{again:?}"), format!("{changes:?}"));

    let before = tables.clone();
    let mut unfitted = tables.clone();
    let touched = tables.apply_event(contract, &changes);
    assert_eq!(unfitted.apply_event(contract, &answered), touched);
    assert_same_rows(contract, tables, &unfitted);
    match touched {
        Ok(touched) => {
            assert_eq!(touched.len(), changes.len());
            assert_fit(contract, tables);
            true
        }
        Err(rejection) => {
            assert!([codes::OVERFLOW, codes::MISSED].contains(&&*rejection.code), "{rejection}");
            assert_same_rows(contract, tables, &before);
            false
        }
    }
}

fn looked_up(contract: &Contract, tables: &Tables, topic: u16, call: LookupCall) {
    let mut calls = [call];
    if validate::lookups(contract, topic, &mut calls).is_err() {
        return;
    }
    let again = calls.clone();
    assert_eq!(validate::lookups(contract, topic, &mut calls), Ok(()));
    assert_eq!(calls, again);
    let lookup = &contract.lookups[usize::from(calls[0].lookup)];
    let rows = tables.lookup(contract, &calls[0]);
    assert!(rows.len() <= lookup.limit as usize);
    assert!(rows.iter().all(|row| row.len() == lookup.columns.len()));
}

fn assert_same_rows(contract: &Contract, one: &Tables, other: &Tables) {
    for table in 0..contract.tables.len() {
        assert!(one.rows(table).eq(other.rows(table)), "{one:?}\n{other:?}");
    }
}

fn assert_fit(contract: &Contract, tables: &Tables) {
    for (at, table) in contract.tables.iter().enumerate() {
        for (key, row) in tables.rows(at) {
            assert_eq!(*key, table.key_of(&row.values));
            for (column, value) in table.columns.iter().zip(&row.values) {
                assert!(
                    column.nullable || row.tombstone || !value.is_null(),
                    "{}.{}",
                    table.name,
                    column.name
                );
                let mut fitted = value.clone();
                assert_eq!(fitted.fit(column.ty), Ok(()), "{}.{}: {value}", table.name, column.name);
                assert_eq!(format!("{fitted:?}"), format!("{value:?}"));
            }
        }
    }
}

fn event(input: &mut Unstructured<'_>, contract: &Contract) -> Result<(u16, Vec<Change>)> {
    let topic = below(input, contract.topics.len())?;
    let mut changes = Vec::new();
    while changes.len() < 8 && input.ratio(2, 3)? {
        let statement = below(input, contract.writes.len() + 1)?;
        let columns: Vec<Type> = contract.writes.get(usize::from(statement)).map_or(Vec::new(), |write| {
            let table = &contract.tables[write.table];
            write.argument_columns().map(|column| table.columns[column].ty).collect()
        });
        changes.push(Change { statement, arguments: arguments(input, &columns)? });
    }
    Ok((topic, changes))
}

fn lookup(input: &mut Unstructured<'_>, contract: &Contract) -> Result<LookupCall> {
    let lookup = below(input, contract.lookups.len() + 1)?;
    let columns: Vec<Type> = contract.lookups.get(usize::from(lookup)).map_or(Vec::new(), |lookup| {
        let table = &contract.tables[lookup.table];
        lookup.by.iter().map(|column| table.columns[*column].ty).collect()
    });
    Ok(LookupCall { lookup, arguments: arguments(input, &columns)? })
}

/// Most often as many as there are columns, and of their types.
fn arguments(input: &mut Unstructured<'_>, columns: &[Type]) -> Result<Vec<Value>> {
    let mut values = columns.iter().map(|ty| value(input, *ty)).collect::<Result<Vec<_>>>()?;
    match input.int_in_range(0..=31)? {
        0 => drop(values.pop()),
        1 => values.push(Value::Null),
        _ => {}
    }
    Ok(values)
}

fn value(input: &mut Unstructured<'_>, ty: Type) -> Result<Value> {
    const OTHERS: [Type; 3] = [Type::Text, Type::Json, Type::Decimal { precision: 38, scale: 0 }];
    let ty = match input.int_in_range(0..=31)? {
        0 => return Ok(Value::Null),
        1 => *input.choose(&OTHERS)?,
        _ => ty,
    };
    Ok(match ty {
        Type::Boolean => Value::Boolean(input.arbitrary()?),
        Type::Int64 => Value::Int64(integer(input)?),
        Type::Float64 => Value::Float64(input.arbitrary()?),
        Type::Decimal { .. } => Value::Decimal(decimal(input)?),
        Type::Text => Value::Text(text(input)?),
        Type::Bytes => Value::Bytes(text(input)?.into_bytes()),
        Type::Json => Value::Json(document(input)?),
        Type::Timestamp => Value::Timestamp(integer(input)?),
        Type::Date => Value::Date(integer(input)? as i32),
        Type::Uuid => Value::Uuid([input.int_in_range(0..=2)?; 16]),
    })
}

/// Most often a small one, so that keys meet.
fn integer(input: &mut Unstructured<'_>) -> Result<i64> {
    match input.int_in_range(0..=7)? {
        0 => input.arbitrary(),
        1 => input.choose(&[i64::MIN, i64::MAX, i64::MAX - 1]).copied(),
        _ => input.int_in_range(-2..=2),
    }
}

fn decimal(input: &mut Unstructured<'_>) -> Result<Decimal> {
    let units = match input.int_in_range(0..=3)? {
        0 => input.arbitrary()?,
        1 => *input.choose(&[10_i128.pow(38) - 1, 1 - 10_i128.pow(38), 99_999, -99_999])?,
        _ => i128::from(integer(input)?),
    };
    Ok(Decimal::new(units, input.int_in_range(0..=39)?).unwrap_or(Decimal::from(0)))
}

fn text(input: &mut Unstructured<'_>) -> Result<String> {
    match input.int_in_range(0..=3)? {
        0 => input.arbitrary(),
        _ => input.choose(&["a", "b", "", "ü", "\0"]).map(|text| (*text).to_owned()),
    }
}

fn document(input: &mut Unstructured<'_>) -> Result<String> {
    const PIECES: [&str; 16] = [
        "{", "}", "[", "]", "\"", "\\", "\\u0000", "\\ud83d", "\\ude00", ":", ",", "1e9", "-0.5", "null",
        "a", " ",
    ];
    match input.int_in_range(0..=3)? {
        0 => input.arbitrary(),
        1 => {
            let pieces = input.int_in_range(0..=20)?;
            (0..pieces).map(|_| input.choose(&PIECES).copied()).collect()
        }
        _ => input.choose(&["{}", "[]", "null", "1", "\"\"", "{\"a\":[1]}"]).map(|text| (*text).to_owned()),
    }
}

fn below(input: &mut Unstructured<'_>, bound: usize) -> Result<u16> {
    input.int_in_range(0..=bound.saturating_sub(1) as u16)
}

/// Bytes without a pattern, by a congruential generator: what they stand for is in the reading above.
fn seeds() -> Vec<Vec<u8>> {
    let bytes = |mut state: u64| {
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
    };
    (1..=16).map(|seed| bytes(seed).take(512).collect()).collect()
}
