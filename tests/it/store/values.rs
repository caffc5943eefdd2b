//! Values at the edges of their types come back as they went in, the same from both stores.

use anyhow::Result;
use projector_model::json::canonical_number;
use projector_model::{Change, LookupCall, Type, Value};
use projector_sdk::{Column, Decimal, Json, Payload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::home::Home;
use super::on_both_stores;
use super::projection::{Projection, call, contract, descriptor, text};
use super::rows::{self, shown};
use crate::harness::seed;

on_both_stores!(
    every_value_comes_back_as_it_went_in,
    every_comparable_value_is_a_key,
    the_two_zeros_are_one,
    what_the_contract_lets_through_no_store_refuses,
    a_number_keeps_every_digit_from_the_payload_to_the_row,
);

const TYPES: [&str; 11] = [
    "boolean",
    "int64",
    "float64",
    "decimal(38,0)",
    "decimal(38,38)",
    "text",
    "bytes",
    "json",
    "timestamp",
    "date",
    "uuid",
];

fn edges(ty: &str) -> Vec<Value> {
    let decimals =
        |texts: &[&str]| texts.iter().map(|text| Value::Decimal(text.parse().expect(text))).collect();
    let texts = |texts: &[&str]| texts.iter().map(|text| Value::Text((*text).into())).collect();
    let documents = |texts: &[&str]| texts.iter().map(|text| Value::Json((*text).into())).collect();
    match ty {
        "boolean" => vec![Value::Boolean(true), Value::Boolean(false)],
        "int64" => [i64::MIN, -1, 0, i64::MAX].map(Value::Int64).into(),
        "float64" => {
            [f64::INFINITY, f64::NEG_INFINITY, f64::MIN, f64::MAX, f64::MIN_POSITIVE, 5e-324, 0.1 + 0.2, 1e16]
                .map(Value::Float64)
                .into()
        }
        "decimal(38,0)" => decimals(&[
            "99999999999999999999999999999999999999",
            "-99999999999999999999999999999999999999",
            "0",
            "10",
        ]),
        "decimal(38,38)" => decimals(&[
            "0.99999999999999999999999999999999999999",
            "-0.99999999999999999999999999999999999999",
            "0.00000000000000000000000000000000000001",
            "0",
        ]),
        "text" => texts(&[
            "",
            " ",
            "a\tb\r\n",
            "\u{7f}\u{1}",
            "é",
            "e\u{301}",
            "\u{10ffff}",
            "日本",
            "';--\\\"",
            "123",
            "NULL",
        ]),
        "bytes" => {
            vec![Value::Bytes(Vec::new()), Value::Bytes((0..=255).collect()), Value::Bytes(vec![0; 100_000])]
        }
        "json" => documents(&[
            "null",
            "\"\"",
            "{}",
            "[1.5,-1,true,null,\"\\u00e9\\n\\ud83d\\ude00\"]",
            "{\"b\":{\"a\":[]},\"\":0}",
            "123456789012345678",
            "\"\\\\u0000\"",
        ]),
        "timestamp" => [-62_135_596_800_000_000, 253_402_300_799_999_999, 0, -1, 1_700_000_000_123_456]
            .map(Value::Timestamp)
            .into(),
        "date" => [-719_162, 2_932_896, 0, -1, 10_957].map(Value::Date).into(),
        "uuid" => [[0; 16], [255; 16], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]]
            .map(Value::Uuid)
            .into(),
        _ => unreachable!("a type of the list above"),
    }
}

async fn every_value_comes_back_as_it_went_in(home: Home) -> Result<()> {
    let mut columns = vec![json!({"name": "id", "type": "int64"})];
    columns.extend(
        TYPES
            .iter()
            .enumerate()
            .map(|(at, ty)| json!({"name": format!("c{at}"), "type": ty, "nullable": true})),
    );
    let set: Vec<_> = (0..TYPES.len()).map(|at| json!({"column": format!("c{at}")})).collect();
    let contract = contract(&descriptor(
        json!([{"name": "edge", "key": ["id"], "columns": columns}]),
        json!([{"name": "put", "table": "edge", "kind": "upsert", "set": set}]),
        json!([{"name": "one", "table": "edge", "by": ["id"], "columns": ["id"]}]),
    ));
    let projection = Projection::install(home.open().await?, contract).await?;
    let edges: Vec<Vec<Value>> = TYPES.iter().map(|ty| edges(ty)).collect();
    let most = edges.iter().map(Vec::len).max().unwrap_or_default() as i64;
    // The row after the last has nothing but nulls.
    let mut changes: Vec<Change> = (0..=most)
        .map(|id| {
            let nth = |values: &Vec<Value>| values.get(id as usize).cloned().unwrap_or(Value::Null);
            call(0, std::iter::once(Value::Int64(id)).chain(edges.iter().map(nth)))
        })
        .collect();
    changes.iter_mut().for_each(|change| projection.deployment.contract.fit(change).expect("they fit"));
    projection.write(std::slice::from_ref(&changes)).await?;

    let asked: Vec<_> =
        (0..=most).map(|id| LookupCall { lookup: 0, arguments: vec![Value::Int64(id)] }).collect();
    let read = projection.read(&asked).await?;
    let dump =
        rows::of_store(&home, &projection.deployment.contract, &projection.deployment.generation).await?;
    for (change, found) in changes.iter().zip(&read) {
        let expected: Vec<_> = change.arguments.iter().map(shown).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].iter().map(shown).collect::<Vec<_>>(), expected, "read by the host");
        assert!(
            dump[0].visible.iter().any(|row| row.values == expected),
            "{expected:?} for readers: {dump:#?}"
        );
    }
    assert_eq!(dump[0].visible.len(), changes.len());
    Ok(())
}

async fn every_comparable_value_is_a_key(home: Home) -> Result<()> {
    let comparable = |ty: &&str| ty.parse::<Type>().is_ok_and(Type::is_comparable);
    let types: Vec<&str> = TYPES.into_iter().filter(comparable).collect();
    let name = |at: usize| format!("t{at}");
    let each = |make: &dyn Fn(usize, &str) -> serde_json::Value| -> serde_json::Value {
        types.iter().enumerate().map(|(at, ty)| make(at, ty)).collect()
    };
    let contract = contract(&descriptor(
        each(&|at, ty| {
            json!({"name": name(at), "key": ["id"], "indexes": [{"columns": ["same"]}],
                   "columns": [{"name": "id", "type": ty}, {"name": "same", "type": ty}]})
        }),
        each(
            &|at, _| json!({"name": name(at), "table": name(at), "kind": "upsert", "set": [{"column": "same"}]}),
        ),
        each(
            &|at, _| json!({"name": name(at), "table": name(at), "by": ["same"], "columns": ["id", "same"], "limit": 100}),
        ),
    ));
    let projection = Projection::install(home.open().await?, contract).await?;
    for (at, ty) in types.iter().enumerate() {
        let mut values = edges(ty);
        // Postgres' indexes hold entries of up to 2,700 bytes.
        values.retain(|value| !matches!(value, Value::Bytes(bytes) if bytes.len() > 1_000));
        let put = |value: &Value| call(at as u16, [value.clone(), value.clone()]);
        projection.write(&[values.iter().map(put).collect()]).await?;
        projection.write(&[values.iter().map(put).collect()]).await?;
        let calls: Vec<_> = values
            .iter()
            .map(|value| LookupCall { lookup: at as u16, arguments: vec![value.clone()] })
            .collect();
        let found = projection.read(&calls).await?;
        for (value, found) in values.iter().zip(found) {
            assert_eq!(found, [[value.clone(), value.clone()]], "{ty}");
        }
    }
    Ok(())
}

async fn the_two_zeros_are_one(home: Home) -> Result<()> {
    let contract = contract(&descriptor(
        json!([{"name": "f", "key": ["id"], "columns": [{"name": "id", "type": "int64"}, {"name": "f", "type": "float64"}]}]),
        json!([{"name": "put", "table": "f", "kind": "upsert", "set": [{"column": "f", "operation": "min"}]}]),
        json!([{"name": "one", "table": "f", "by": ["id"], "columns": ["id"]}]),
    ));
    let projection = Projection::install(home.open().await?, contract).await?;
    for zero in [0.0, -0.0] {
        projection.write(&[vec![call(0, [Value::Int64(1), Value::Float64(zero)])]]).await?;
    }
    let found = projection.read(&[LookupCall { lookup: 0, arguments: vec![Value::Int64(1)] }]).await?;
    assert_eq!(found[0], [[Value::Int64(1), Value::Float64(0.0)]]);
    Ok(())
}

/// What only looks like a value that a store can hold is refused before any store sees it.
async fn what_the_contract_lets_through_no_store_refuses(home: Home) -> Result<()> {
    let contract = contract(&descriptor(
        json!([{"name": "doc", "key": ["id"], "columns": [
            {"name": "id", "type": "text"}, {"name": "json", "type": "json", "nullable": true}]}]),
        json!([{"name": "put", "table": "doc", "kind": "upsert", "set": [{"column": "json"}]}]),
        json!([]),
    ));
    let projection = Projection::install(home.open().await?, contract).await?;
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let numbers = |digits: usize| format!("{}e-9999", "1".repeat(digits));
    for document in [
        "\"\\ud800\"".into(),
        "\"\\udc00\\ud800\"".into(),
        "{\"\\ud83d\":1}".into(),
        "\"\\ud83d\\ude00\"".into(),
        "\"\\\\ud800\"".into(),
        "\"\\u0000\"".into(),
        "-0.0e-0".into(),
        "1e9999".into(),
        "\"\u{0}\"".into(),
        numbers(4_000),
        nested(500),
        nested(20_000),
        format!("\"{}\"", "x".repeat(3_000_000)),
    ] {
        let mut change = call(0, [text("a"), Value::Json(document)]);
        if projection.deployment.contract.fit(&mut change).is_ok() {
            let shown = change.arguments[1].to_string().chars().take(40).collect::<String>();
            assert!(projection.write(&[vec![change]]).await.is_ok(), "{shown}");
        }
    }
    Ok(())
}

/// A number as JSON writes it, of up to 45 digits.
fn random_number(rng: &mut StdRng) -> String {
    let mut digits = |most: usize| -> String {
        (0..rng.random_range(1..=most)).map(|_| char::from(b'0' + rng.random_range(0..10_u8))).collect()
    };
    let most = *[3, 12, 18, 25].get(digits(1).parse::<usize>().unwrap() % 4).unwrap();
    let whole = digits(most);
    let fraction = digits(20);
    let exponent = digits(2);
    let whole = whole.trim_start_matches('0');
    let mut text = String::from(if rng.random_bool(0.3) { "-" } else { "" });
    text.push_str(if whole.is_empty() { "0" } else { whole });
    if rng.random_bool(0.6) {
        text += &format!(".{fraction}");
    }
    if rng.random_bool(0.2) {
        text += &format!("{}{exponent}", ["e", "E-", "e+"][rng.random_range(0..3)]);
    }
    text
}

#[derive(serde::Deserialize)]
struct Field<T> {
    n: T,
}

/// What a plugin reads of a number in a payload, which nobody rounds: all of its digits are in the row, or
/// the event is rejected, and the column or the field is named.
async fn a_number_keeps_every_digit_from_the_payload_to_the_row(home: Home) -> Result<()> {
    const COLUMNS: [&str; 4] = ["kept", "read", "amount", "ratio"];
    let types = ["json", "json", "decimal(38,12)", "float64"];
    let mut columns = vec![json!({"name": "id", "type": "int64"})];
    columns.extend(
        COLUMNS.iter().zip(types).map(|(name, ty)| json!({"name": name, "type": ty, "nullable": true})),
    );
    let set: Vec<_> = COLUMNS.iter().map(|name| json!({"column": name})).collect();
    let contract = contract(&descriptor(
        json!([{"name": "number", "key": ["id"], "columns": columns}]),
        json!([{"name": "put", "table": "number", "kind": "upsert", "set": set}]),
        json!([{"name": "one", "table": "number", "by": ["id"], "columns": ["id"]}]),
    ));
    let projection = Projection::install(home.open().await?, contract).await?;
    let mut rng = StdRng::seed_from_u64(seed(64));
    let mut numbers: Vec<String> =
        ["12345678901234567890.12", "18446744073709551616", "0.1234567890123456789", "100.00", "1e-2"]
            .map(String::from)
            .into();
    numbers.extend((0..400).map(|_| random_number(&mut rng)));
    let (mut changes, mut refused) = (Vec::new(), 0);
    for (id, number) in (0..).zip(&numbers) {
        let payload = format!("{{\"n\": {number}}}");
        let mut value = |column: usize, read: std::result::Result<Value, String>| {
            let fit = read.and_then(|value| {
                let mut arguments =
                    vec![Value::Int64(id), Value::Null, Value::Null, Value::Null, Value::Null];
                arguments[column + 1] = value;
                let mut change = call(0, arguments);
                projection
                    .deployment
                    .contract
                    .fit(&mut change)
                    .map(|()| change.arguments[column + 1].clone())
                    .map_err(|rejection| rejection.detail)
            });
            fit.unwrap_or_else(|error| {
                let named = error.contains(COLUMNS[column]) || error.contains("`n`");
                assert!(named, "{number}: {error}");
                refused += 1;
                Value::Null
            })
        };
        let detail = |rejection: projector_model::Rejection| rejection.detail;
        let kept = <Json as Payload>::read(Some(payload.as_bytes())).map(Column::into_value).map_err(detail);
        let read = <Json<serde_json::Value> as Payload>::read(Some(payload.as_bytes()));
        let amount = <Field<Decimal> as Payload>::read(Some(payload.as_bytes()));
        let ratio = <Field<f64> as Payload>::read(Some(payload.as_bytes()));
        let arguments = [
            value(0, kept),
            value(1, read.map(Column::into_value).map_err(detail)),
            value(2, amount.map(|field| field.n.into_value()).map_err(detail)),
            value(3, ratio.map(|field| field.n.into_value()).map_err(detail)),
        ];
        changes.push(call(0, std::iter::once(Value::Int64(id)).chain(arguments)));
    }
    assert!(refused > 50, "only {refused} values are refused");
    projection.write(std::slice::from_ref(&changes)).await?;

    let calls: Vec<_> = (0..numbers.len() as i64)
        .map(|id| LookupCall { lookup: 0, arguments: vec![Value::Int64(id)] })
        .collect();
    let found = projection.read(&calls).await?;
    let mut compared = [0; 4];
    for (number, rows) in numbers.iter().zip(&found) {
        let row = &rows[0];
        let spelled = canonical_number(number);
        for (column, value) in row[1..].iter().enumerate() {
            match value {
                Value::Null => continue,
                Value::Json(document) => {
                    let found = projector_model::json::numbers(document.as_bytes()).next().unwrap();
                    assert_eq!(
                        canonical_number(std::str::from_utf8(found)?),
                        spelled,
                        "{number}: {document}"
                    );
                }
                Value::Decimal(decimal) => {
                    assert_eq!(canonical_number(&decimal.to_string()), spelled, "{number}")
                }
                // As it is declared: the nearest one.
                Value::Float64(ratio) => assert_eq!(*ratio, number.parse::<f64>()? + 0.0, "{number}"),
                other => panic!("{other:?}"),
            }
            compared[column] += 1;
        }
        assert!(!row[1].is_null(), "{number} can be kept as it is");
    }
    assert!(compared.iter().all(|compared| *compared > 100), "{compared:?}");

    let dump =
        rows::of_store(&home, &projection.deployment.contract, &projection.deployment.generation).await?;
    for change in &changes {
        let expected: Vec<_> = change.arguments.iter().map(shown).collect();
        assert!(dump[0].visible.iter().any(|row| row.values == expected), "{expected:?} for readers");
    }
    Ok(())
}
