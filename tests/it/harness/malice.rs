//! Components that mean harm, and the sound one that they are made of.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Guest, component, contract};

/// A sound descriptor: counts the events of a topic by their kind.
pub(crate) fn descriptor(name: &str) -> String {
    json!({
        "name": name,
        "version": "1.0.0",
        "topics": [{"name": "hostile.events.v1", "statements": ["count"], "lookups": ["one"]}],
        "tables": [{"name": "seen", "key": ["kind"], "indexes": [{"columns": ["events"]}], "columns": [
            {"name": "kind", "type": "int64"}, {"name": "events", "type": "int64"}]}],
        "statements": [{"name": "count", "table": "seen", "kind": "upsert",
            "set": [{"column": "events", "operation": "add"}]}],
        "lookups": [{"name": "one", "table": "seen", "by": ["kind"], "columns": ["events"]}],
        "ignores": [{"code": "boring", "meaning": "nothing happened"}],
        "rejects": [{"code": "odd", "meaning": "something is odd"}],
    })
    .to_string()
}

pub(crate) fn describing(descriptor: &str) -> Guest {
    Guest::describing(descriptor)
}

/// Names that mean harm to SQL, to files, to metrics or to readers. Each with whether it is one
/// only where it becomes an identifier.
const NAMES: [&str; 14] = [
    "a\"; drop schema projector cascade; --",
    "a'; delete from projector.checkpoint; --",
    "a;b",
    "a b",
    "A",
    "",
    "..",
    "../../etc/passwd",
    "a\0b",
    "a\nb",
    "\u{202e}gnp",
    "naïve",
    "ａ",
    "a/**/b",
];

/// Sound as the author's own words, and reserved where they would become identifiers.
const WORDS: [&str; 5] = ["select", "user", "pg_catalog", "sqlite_master", "ctid"];

/// Sound descriptors but for one name: `(place, name, descriptor)`, where `place` is what the
/// refusal must name.
pub(crate) fn malicious() -> Vec<(&'static str, String, Value)> {
    let sound: Value = serde_json::from_str(&descriptor("malicious")).unwrap();
    let long = "a".repeat(64);
    let too_long_for_kafka = "a".repeat(250);
    let mut all = Vec::new();
    // Where the name stands, and where it is used: a consistent descriptor, so that nothing but
    // the name is wrong.
    let places: [(&str, &[&str]); 9] = [
        ("name: ", &["/name"]),
        ("tables[0]", &["/tables/0/name", "/statements/0/table", "/lookups/0/table"]),
        (
            "tables[0] \"seen\": columns[0]",
            &["/tables/0/columns/0/name", "/tables/0/key/0", "/lookups/0/by/0"],
        ),
        (
            "tables[0] \"seen\": columns[1]",
            &[
                "/tables/0/columns/1/name",
                "/tables/0/indexes/0/columns/0",
                "/statements/0/set/0/column",
                "/lookups/0/columns/0",
            ],
        ),
        ("statements[0]", &["/statements/0/name", "/topics/0/statements/0"]),
        ("lookups[0]", &["/lookups/0/name", "/topics/0/lookups/0"]),
        ("topics[0]", &["/topics/0/name"]),
        ("ignores[0]", &["/ignores/0/code"]),
        ("rejects[0]", &["/rejects/0/code"]),
    ];
    for (place, pointers) in places {
        let is_identifier = place.starts_with("tables");
        let mut names: Vec<&str> = NAMES.to_vec();
        names.push(if place == "topics[0]" { &too_long_for_kafka } else { &long });
        if is_identifier {
            names.extend(WORDS);
        }
        if place == "name: " {
            names.extend([
                "public",
                "pg-catalog",
                "information-schema",
                "projector",
                "main",
                "-",
                "a--b",
                "a_b",
            ]);
        }
        // Kafka allows uppercase letters.
        names.retain(|name| place != "topics[0]" || *name != "A");
        // Not an identifier, and no harm anywhere else.
        names.retain(|name| is_identifier || place == "name: " || place == "topics[0]" || *name != "..");
        for name in names {
            let mut spoilt = sound.clone();
            for pointer in pointers {
                *spoilt.pointer_mut(pointer).unwrap() = json!(name);
            }
            all.push((place, name.to_owned(), spoilt));
        }
    }
    all
}

/// A small file that is much work to compile: each of these functions branches over and over, with
/// hundreds of values alive at once.
pub(crate) fn bomb(functions: usize) -> Vec<u8> {
    const VALUES: usize = 60;
    let mut body = String::new();
    for value in 0..VALUES {
        let (a, b) = ((value * 7 + 3) % VALUES, (value * 13 + 5) % VALUES);
        let _ = write!(
            body,
            "(if (i64.lt_u (local.get {a}) (local.get {b}))
               (then (local.set {value} (i64.add (local.get {a}) (i64.mul (local.get {b}) (local.get {value})))))
               (else (local.set {value} (i64.xor (local.get {b}) (i64.rotl (local.get {a}) (local.get {value}))))))"
        );
    }
    let locals = "i64 ".repeat(VALUES);
    let function = format!("(func (local {locals}) {body})\n");
    let module = describing(&descriptor("bomb")).text_format();
    let end = module.rfind(')').expect("a module ends");
    let module = format!("{}{})", &module[..end], function.repeat(functions));
    component(&module, &contract(), "projector:plugin/projection")
}
