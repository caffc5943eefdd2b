//! Changes that keep an input's shape.

use rand::rngs::SmallRng;
use rand::seq::{IndexedMutRandom, IndexedRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

/// As long as it was, and other in a few bytes.
pub(crate) fn in_place(input: &[u8], seed: u32) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let mut dice = SmallRng::seed_from_u64(seed.into());
    for _ in 0..dice.random_range(1..=4) {
        let other = *b"\0\x01\x7f\xff\"{}a1-_".choose(&mut dice).unwrap_or(&0);
        let change = dice.random_range(0..4);
        let near: u8 = dice.random_range(1..=3);
        if let Some(byte) = bytes.choose_mut(&mut dice) {
            *byte = match change {
                0 => other,
                1 => *byte ^ 1 << near,
                2 => byte.wrapping_add(near),
                _ => byte.wrapping_sub(near),
            };
        }
    }
    bytes
}

/// A document like this one, but for a place or two, or a part of it. `None` where there is none.
pub(crate) fn json(document: &[u8], seed: u32) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(document).ok()?;
    let mut dice = SmallRng::seed_from_u64(seed.into());
    for _ in 0..dice.random_range(1..=3) {
        if dice.random_ratio(1, 4) {
            rename(&mut document, &mut dice);
            continue;
        }
        let own = values(&document);
        let other = replacement(&own, &mut dice);
        let place = dice.random_range(0..own.len());
        change(&mut document, &mut { place }, &other, &mut dice);
    }
    let mut bytes = serde_json::to_vec(&document).ok()?;
    if dice.random_ratio(1, 16) {
        bytes.truncate(dice.random_range(0..bytes.len()));
    }
    Some(bytes)
}

/// A name has to be the same wherever it stands.
fn rename(document: &mut Value, dice: &mut SmallRng) {
    let mut own = values(document);
    own.retain(|value| value.is_string());
    let Some(name) = own.choose(dice).map(|name| (*name).clone()) else { return };
    let mut other = name.clone();
    change_here(&mut other, &replacement(&own, dice), dice);
    replace(document, &name, &other);
}

fn replace(value: &mut Value, name: &Value, other: &Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, name, other)),
        Value::Object(fields) => fields.values_mut().for_each(|field| replace(field, name, other)),
        _ if value == name => value.clone_from(other),
        _ => {}
    }
}

/// Every value in it, each before what is in it.
fn values(value: &Value) -> Vec<&Value> {
    let mut found = Vec::new();
    collect(value, &mut found);
    found
}

fn collect<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    found.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, found)),
        _ => {}
    }
}

/// Most often a value from elsewhere in the document: names have to be those of others.
fn replacement(own: &[&Value], dice: &mut SmallRng) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(""),
        json!("\0"),
        json!("\\\""),
        json!("é\"'; --"),
        json!("a".repeat(64)),
        json!([]),
        json!({}),
    ];
    match own.choose(dice) {
        Some(value) if dice.random_ratio(3, 4) => (*value).clone(),
        _ => odd.choose(dice).cloned().unwrap_or_default(),
    }
}

/// Changes the value that is `place` values further on in the document.
fn change(value: &mut Value, place: &mut usize, other: &Value, dice: &mut SmallRng) {
    if *place == 0 {
        return change_here(value, other, dice);
    }
    *place -= 1;
    let inner: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => return,
    };
    for value in inner {
        let values = count(value);
        if *place < values {
            return change(value, place, other, dice);
        }
        *place -= values;
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

fn change_here(value: &mut Value, other: &Value, dice: &mut SmallRng) {
    match value {
        Value::Array(items) if !items.is_empty() && dice.random_ratio(3, 4) => {
            let at = dice.random_range(0..items.len());
            match dice.random_range(0..4) {
                0 => drop(items.remove(at)),
                1 => items.insert(at, items[at].clone()),
                2 => items.insert(at, other.clone()),
                _ => items.swap(0, at),
            }
        }
        Value::Object(fields) if !fields.is_empty() && dice.random_ratio(3, 4) => {
            change_field(fields, other, dice)
        }
        Value::String(text) if dice.random_ratio(1, 2) => {
            let longer = ["a", "1", "_", "__a", "-", ".", "-g1", "é"];
            text.push_str(longer.choose(dice).copied().unwrap_or_default());
        }
        Value::Number(number) if dice.random_ratio(1, 2) => {
            *value = json!(number.as_i64().unwrap_or_default().wrapping_add(dice.random_range(-2..=2)));
        }
        _ => value.clone_from(other),
    }
}

fn change_field(fields: &mut Map<String, Value>, other: &Value, dice: &mut SmallRng) {
    let names: Vec<String> = fields.keys().cloned().collect();
    let Some(name) = names.choose(dice) else { return };
    match (dice.random_range(0..3), other) {
        (0, _) => drop(fields.remove(name)),
        (1, Value::String(other)) => {
            drop(fields.remove(name).map(|field| fields.insert(other.clone(), field)))
        }
        _ => drop(fields.insert(name.clone(), other.clone())),
    }
}
