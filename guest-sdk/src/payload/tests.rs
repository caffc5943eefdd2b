use std::collections::HashMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::{Column, Decimal, Json, RawJson, Value};

#[derive(Debug, Deserialize)]
struct Outer {
    #[expect(dead_code, reason = "only its reading matters")]
    inner: Option<Vec<Inner>>,
}

#[derive(Debug, Deserialize)]
struct Inner {
    #[expect(dead_code, reason = "only its reading matters")]
    n: u8,
}

fn error<T: for<'de> Deserialize<'de>>(json: impl AsRef<[u8]>) -> String {
    match read_json::<T>(json.as_ref()) {
        Ok(_) => panic!("it is read"),
        Err(error) => error,
    }
}

#[test]
fn mistakes_are_found_where_they_are() {
    let place = |json: &str| error::<Outer>(json).split_once(", in ").map(|(_, path)| path.to_owned());
    let at = |path: &str| Some(format!("`{path}`"));
    assert_eq!(place(r#"{"inner": [{"n": 1}, {"n": "x, y"}]}"#), at("inner[1].n"));
    assert_eq!(place(r#"{"inner": [{"n": 1}, {"n": 256, "m": 1}]}"#), at("inner[1].n"));
    assert_eq!(place("{\"a\\\"{\": [1],\n \"inner\":\n [{\"n\": true}]}"), at("inner[0].n"));
    assert_eq!(place(r#"{"inner": [{"m": 1}]}"#), at("inner[0]"));
    assert_eq!(place(r#"{"inner": 1}"#), at("inner"));
    assert_eq!(place("[]"), None);
}

#[test]
fn the_reason_comes_before_a_path_of_any_length() {
    let name = "x".repeat(4_000);
    let error = error::<HashMap<String, u8>>(format!(r#"{{"a{name}b": "{name}"}}"#));
    assert!(error.starts_with("invalid type: string \"xxx"), "{error}");
    assert!(error.contains("expected u8 at line 1 column"), "{error}");
    assert!(error.contains("in `axxx") && error.ends_with("xxxb`") && error.contains('…'), "{error}");
    assert!(error.chars().count() < 700, "{error}");
}

#[test]
fn what_is_not_json_is_named() {
    assert!(error::<Outer>("").contains("empty"));
    assert!(error::<Outer>(b"\0\0\0\0\x07\x02").contains("schema id 7"));
    assert!(error::<Outer>("<order/>").contains("not JSON: expected value at line 1 column 1"));
    assert!(error::<String>(b"\"\xff\"").contains("byte 0xff at offset 1"));
    assert!(error::<Outer>("{\"inner\": [").contains("not JSON: EOF"));
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    assert!(read_json::<Outer>("\u{feff}{\"inner\": []}".as_bytes()).is_ok());
    assert!(error::<Outer>("\u{feff}\u{feff}{}").contains("not JSON"));
}

#[test]
fn a_payload_nests_as_deep_as_a_document_may() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let fits = |document: &str| Value::Json(document.into()).fit(crate::model::Type::Json).is_ok();
    let deepest = nested(MAX_JSON_DEPTH);
    assert!(read_json::<serde_json::Value>(deepest.as_bytes()).is_ok() && fits(&deepest));
    let deeper = nested(MAX_JSON_DEPTH + 1);
    assert!(!fits(&deeper));
    assert!(error::<serde_json::Value>(&deeper).starts_with("the value is nested deeper than 127 levels"));
}

const LOSSY: [&str; 4] =
    ["12345678901234567890.12", "18446744073709551616", "0.1234567890123456789", "1e-400"];

#[derive(Debug, Deserialize)]
struct Typed {
    ratio: f64,
    price: Decimal,
    document: Json,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Untagged {
    #[expect(dead_code, reason = "only its reading matters")]
    One { n: f64 },
}

#[derive(Debug, Deserialize)]
struct Flat {
    #[serde(flatten)]
    #[expect(dead_code, reason = "only its reading matters")]
    rest: HashMap<String, serde_json::Value>,
}

#[test]
fn a_number_that_would_lose_digits_rejects_the_event_or_is_kept() {
    for number in LOSSY {
        let document = format!(r#"{{"a": [1, {{"n": {number}}}]}}"#);
        let error = error::<HashMap<String, Json<serde_json::Value>>>(&document);
        assert!(error.contains(number) && error.contains("in `a[1].n`"), "{error}");
        assert!(error.contains("Decimal"), "{error}");
        let kept: HashMap<String, Json> = read_json(document.as_bytes()).unwrap();
        assert_eq!(kept["a"].0.get(), format!(r#"[1, {{"n": {number}}}]"#));
    }
    for number in &LOSSY[..3] {
        let typed: Typed = read_json(
            format!(r#"{{"ratio": {number}, "price": {number}, "document": {{"n":{number}}}}}"#).as_bytes(),
        )
        .unwrap();
        assert_eq!(typed.ratio, number.parse::<f64>().unwrap());
        assert_eq!(typed.price.to_string(), *number);
        assert_eq!(typed.document.into_value(), Value::Json(format!(r#"{{"n":{number}}}"#)));
        let buffered = format!(r#"{{"n": {number}}}"#);
        assert!(error::<Untagged>(&buffered).contains(number));
        assert!(error::<Flat>(&buffered).contains(number));
    }
}

/// Stored documents are read as exactly as payloads: a handler may read, change and write a document.
#[test]
fn a_stored_document_is_read_as_exactly() {
    let stored = Value::Json(format!("[{}]", LOSSY[0]));
    assert!(Json::<Vec<serde_json::Value>>::from_value(&stored).is_err());
    let kept = Json::<RawJson>::from_value(&stored).unwrap();
    assert_eq!(kept.into_value(), stored);
    assert_eq!("1.50".parse::<RawJson>().unwrap().read::<Decimal>().unwrap().to_string(), "1.50");
}

proptest! {
    /// A number that was written from an `f64` is read as the same `f64`.
    #[test]
    fn floats_are_the_nearest(number in any::<f64>().prop_filter("finite", |number| number.is_finite())) {
        for text in [format!("{number:?}"), format!("{number:e}")] {
            let json = format!(r#"{{"n": {text}}}"#);
            let typed: HashMap<String, f64> = read_json(json.as_bytes()).unwrap();
            prop_assert_eq!(typed["n"].to_bits(), number.to_bits());
            let any: serde_json::Value = read_json(json.as_bytes()).unwrap();
            prop_assert_eq!(any["n"].as_f64().unwrap().to_bits(), number.to_bits());
        }
    }

    /// A number is written with the value that was read, or it is refused and named in the error.
    #[test]
    fn numbers_are_exact_or_refused(text in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][-+]?[0-9]{1,3})?") {
        let read = read_json::<Json<Vec<serde_json::Value>>>(format!("[{text}]").as_bytes());
        match read.map(Column::into_value) {
            Ok(Value::Json(written)) => prop_assert_eq!(
                crate::model::json::canonical_number(written.trim_matches(['[', ']'])),
                crate::model::json::canonical_number(&text), "{}", written
            ),
            Ok(other) => prop_assert!(false, "{other:?}"),
            Err(error) => prop_assert!(error.contains("[0]") || error.contains("out of range"), "{error}"),
        }
        let kept: Json = read_json(text.as_bytes()).unwrap();
        prop_assert_eq!(kept.into_value(), Value::Json(text.clone()));
        if let Ok(decimal) = read_json::<Decimal>(text.as_bytes()) {
            prop_assert_eq!(
                crate::model::json::canonical_number(&decimal.to_string()),
                crate::model::json::canonical_number(&text)
            );
        }
    }

    #[test]
    fn no_bytes_bring_it_down(json in prop::collection::vec(any::<u8>(), 0..60), text in "[\\[\\]{}\",:\\\\a1e.\n-]{0,60}") {
        let _ = read_json::<serde_json::Value>(&json);
        let _ = read_json::<serde_json::Value>(text.as_bytes());
        let _ = read_json::<Outer>(text.as_bytes());
    }
}
