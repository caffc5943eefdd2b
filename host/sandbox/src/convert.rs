//! Converts between the model's values and the generated types of the contract.
//!
//! Invariant: the generated types never leave the sandbox, so that another version of the contract changes no
//! other crate.

use projector_model::{Change, Contract, Decimal, LookupCall, Value};

use super::answer::Found;
use super::bindings::projector::plugin::types;
use projector_core::event::Event;

/// The event's headers. Never called for an event with a header name that is not UTF-8: such an event fails
/// earlier.
pub(super) fn headers(event: &Event) -> Vec<types::Header<'_>> {
    let header = |name, value| types::Header { name, value };
    let headers = event.headers.iter();
    headers.map(|of| header(of.text_name().unwrap_or_default(), of.value.as_deref())).collect()
}

pub(super) fn event<'a>(event: &'a Event, headers: &'a [types::Header<'a>]) -> types::Event<'a> {
    types::Event {
        topic: event.topic,
        topic_name: &event.topic_name,
        partition: event.position.partition.number,
        offset: event.position.offset,
        timestamp: event.timestamp_ms,
        key: event.key.as_deref(),
        value: event.value.as_deref(),
        headers,
    }
}

/// Calls `project` with the found rows as types of the contract: slices of slices, borrowed from this
/// function.
pub(super) fn with_found<T>(found: &[Found], project: impl FnOnce(&[types::Found<'_>]) -> T) -> T {
    // Decimals are passed as text, which must live as long as it is borrowed. They are collected and taken in
    // the same order: of each lookup, its arguments and then its rows.
    let decimals: Vec<String> = found
        .iter()
        .flat_map(|(call, rows)| call.arguments.iter().chain(rows.iter().flatten()))
        .filter_map(|value| if let Value::Decimal(number) = value { Some(number.to_string()) } else { None })
        .collect();
    let decimals = &mut decimals.iter().map(String::as_str);
    let values: Vec<_> = found
        .iter()
        .map(|(call, rows)| {
            let arguments = params(&call.arguments, decimals);
            (arguments, rows.iter().map(|row| params(row, decimals)).collect::<Vec<_>>())
        })
        .collect();
    let rows: Vec<Vec<&[types::ValueParam<'_>]>> =
        values.iter().map(|(_, rows)| rows.iter().map(Vec::as_slice).collect()).collect();
    let found: Vec<_> = found
        .iter()
        .zip(&values)
        .zip(&rows)
        .map(|(((call, _), (arguments, _)), rows)| types::Found {
            call: types::LookupCallParam { lookup: call.lookup, arguments },
            rows,
        })
        .collect();
    project(&found)
}

fn params<'a>(
    values: &'a [Value],
    decimals: &mut impl Iterator<Item = &'a str>,
) -> Vec<types::ValueParam<'a>> {
    values.iter().map(|value| param(value, decimals)).collect()
}

fn param<'a>(value: &'a Value, decimals: &mut impl Iterator<Item = &'a str>) -> types::ValueParam<'a> {
    match value {
        Value::Null => types::ValueParam::Null,
        Value::Boolean(value) => types::ValueParam::Boolean(*value),
        Value::Int64(value) => types::ValueParam::Int64(*value),
        Value::Float64(value) => types::ValueParam::Float64(*value),
        Value::Decimal(_) => types::ValueParam::Decimal(decimals.next().unwrap_or_default()),
        Value::Text(value) => types::ValueParam::Text(value),
        Value::Bytes(value) => types::ValueParam::Bytes(value),
        Value::Json(value) => types::ValueParam::Json(value),
        Value::Timestamp(value) => types::ValueParam::Timestamp(*value),
        Value::Date(value) => types::ValueParam::Date(*value),
        Value::Uuid(bytes) => {
            let number = u128::from_be_bytes(*bytes);
            types::ValueParam::Uuid(((number >> 64) as u64, number as u64))
        }
    }
}

/// Converts a change. The error names the column.
pub(super) fn change(change: types::Change, contract: &Contract) -> Result<Change, String> {
    let write = contract.writes.get(usize::from(change.statement));
    let arguments = arguments(change.arguments).map_err(|(at, problem)| {
        let column =
            write.and_then(|write| Some((&write.name, write.table, write.argument_columns().nth(at)?)));
        named(contract, column, problem)
    })?;
    Ok(Change { statement: change.statement, arguments })
}

pub(super) fn lookup_call(call: types::LookupCallResult, contract: &Contract) -> Result<LookupCall, String> {
    let lookup = contract.lookups.get(usize::from(call.lookup));
    let arguments = arguments(call.arguments).map_err(|(at, problem)| {
        let column = lookup.and_then(|lookup| Some((&lookup.name, lookup.table, *lookup.by.get(at)?)));
        named(contract, column, problem)
    })?;
    Ok(LookupCall { lookup: call.lookup, arguments })
}

/// `column`: the statement or lookup that uses the column, its table, and its index in the table.
fn named(contract: &Contract, column: Option<(&String, usize, usize)>, problem: String) -> String {
    let Some((by, table, column)) = column else { return problem };
    let table = &contract.tables[table];
    format!("{by}: {}.{}: {problem}", table.name, table.columns[column].name)
}

/// The error has the index of the invalid argument.
fn arguments(values: Vec<types::ValueResult>) -> Result<Vec<Value>, (usize, String)> {
    values
        .into_iter()
        .enumerate()
        .map(|(at, argument)| value(argument).map_err(|problem| (at, problem)))
        .collect()
}

fn value(value: types::ValueResult) -> Result<Value, String> {
    Ok(match value {
        types::ValueResult::Null => Value::Null,
        types::ValueResult::Boolean(value) => Value::Boolean(value),
        types::ValueResult::Int64(value) => Value::Int64(value),
        types::ValueResult::Float64(value) => Value::Float64(value),
        types::ValueResult::Decimal(text) => Value::Decimal(text.parse::<Decimal>()?),
        types::ValueResult::Text(value) => Value::Text(value),
        types::ValueResult::Bytes(value) => Value::Bytes(value),
        types::ValueResult::Json(value) => Value::Json(value),
        types::ValueResult::Timestamp(value) => Value::Timestamp(value),
        types::ValueResult::Date(value) => Value::Date(value),
        types::ValueResult::Uuid((high, low)) => {
            Value::Uuid((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
        }
    })
}
