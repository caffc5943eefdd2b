//! Compares JSON documents, which SQLite stores as texts, by their meaning, as Postgres compares `jsonb`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use projector_model::json::canonical_number;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The collation under which two documents with the same meaning are equal.
pub(super) const DOCUMENT: &str = "projector_document";

/// Documents with the same meaning are equal. Others have the order of their normalized texts.
pub(super) fn compare_documents(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    match (meaning(a), meaning(b)) {
        (Some(one), Some(other)) => one.cmp(&other),
        (one, other) => one.is_none().cmp(&other.is_none()).then_with(|| a.cmp(b)),
    }
}

/// One normalized text for all documents with the same meaning. Of a name that an object has twice, the last value counts.
fn meaning(document: &str) -> Option<String> {
    let document = document.trim_ascii();
    Some(match document.bytes().next()? {
        b'{' => {
            let fields: BTreeMap<String, &RawValue> = read(document)?;
            let field =
                |(name, value): (String, &RawValue)| Some(format!("{name:?}:{}", meaning(value.get())?));
            format!("{{{}}}", fields.into_iter().map(field).collect::<Option<Vec<_>>>()?.join(","))
        }
        b'[' => {
            let items: Vec<&RawValue> = read(document)?;
            let items = items.into_iter().map(|item| meaning(item.get())).collect::<Option<Vec<_>>>()?;
            format!("[{}]", items.join(","))
        }
        b'"' => format!("{:?}", read::<String>(document)?),
        b'-' | b'0'..=b'9' => canonical_number(document)?,
        _ => document.to_owned(),
    })
}

fn read<'d, T: Deserialize<'d>>(document: &'d str) -> Option<T> {
    serde_json::from_str(document).ok()
}

#[cfg(test)]
mod tests {
    use projector_model::json::MAX_JSON_DEPTH;

    use super::*;

    #[test]
    fn documents_are_compared_by_meaning() {
        for (one, other) in [
            (r#"{"a":1,"b":[2,null]}"#, r#" {"b" : [2.0, null], "a": 1e0}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#""\u00e9\n""#, "\"é\\u000a\""),
            ("-0", "0.00"),
            ("120", "1.2e+2"),
            ("0.012", "12E-3"),
            ("[]", "[ ]"),
        ] {
            assert_eq!(compare_documents(one, other), Ordering::Equal, "{one} {other}");
        }
        for (one, other) in [
            ("1", "\"1\""),
            ("1", "-1"),
            ("10", "1"),
            ("10000000000000000000001", "10000000000000000000002"),
            ("[1,2]", "[2,1]"),
            (r#"{"a":null}"#, "{}"),
            ("null", "\"null\""),
            (r#"["a,b"]"#, r#"["a","b"]"#),
            ("{", "{}"),
        ] {
            assert_ne!(compare_documents(one, other), Ordering::Equal, "{one} {other}");
            assert_eq!(compare_documents(one, other), compare_documents(other, one).reverse());
        }
        let deep = |inner: &str| "[".repeat(MAX_JSON_DEPTH) + inner + &"]".repeat(MAX_JSON_DEPTH);
        assert_eq!(compare_documents(&deep("1"), &deep("1.0")), Ordering::Equal);
        assert_ne!(compare_documents(&deep("1"), &deep("2")), Ordering::Equal);
    }
}
