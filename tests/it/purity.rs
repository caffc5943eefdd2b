//! A plugin that answers by more than its event and the rows that it was shown is found out; one that
//! does not is not suspected.

use std::time::Duration;

use projector::project::purity::{Impurity, check};
use projector::project::{Answered, Caller, Keys, ask, resolve};
use projector_config::{EventLimits, Limits};
use projector_core::batch::Delivery;
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_model::interpret::Row;
use projector_model::{LookupCall, Value};
use projector_sandbox::{Answer, Plugin};

use crate::harness::{Argument, Guest, describing, descriptor, event, guest, load};

fn batch(payloads: &[String]) -> Vec<Delivery> {
    let delivery = |(at, payload): (usize, &String)| Delivery { event: event(at as i64, payload), epoch: 1 };
    payloads.iter().enumerate().map(delivery).collect()
}

/// A batch as the pipeline has it projected, and checked. Every lookup finds `row`.
fn checked(plugin: &Plugin, payloads: &[String], row: &[Value]) -> Vec<Impurity> {
    let batch = batch(payloads);
    let answers = ask(plugin, &batch).unwrap();
    let row = Row { values: row.to_vec(), tombstone: false };
    let mut read = |calls: &[LookupCall], _: usize| Ok(vec![Some(vec![row.clone()]); calls.len()]);
    let mut caller = Caller::keeping_calls(plugin);
    resolve(
        &mut caller,
        Answered { events: &batch, answers: &answers, duplicates: &[] },
        Keys::default(),
        &mut read,
    )
    .unwrap();
    check(plugin, &batch, &answers, &caller.into_calls())
}

fn offsets(impurities: &[Impurity]) -> Vec<i64> {
    impurities.iter().map(|impurity| impurity.position.offset).collect()
}

#[test]
fn whoever_counts_events_is_found_out_and_told_of_a_few_times() {
    let plugin = load(&guest("hostile-guest"), &Limits::default());
    let remember = |at: usize| format!(r#"{{"do": "remember", "id": "{at}"}}"#);
    let found = checked(&plugin, &(0..50).map(remember).collect::<Vec<_>>(), &[]);
    // The first of an instance is answered as in any fresh one.
    assert_eq!(offsets(&found), (1..=10).collect::<Vec<_>>());
    assert_eq!(found[6].outcome, r#"1 changes: survivor("7", "event 7 of this instance")"#);
    assert_eq!(found[6].outcome_again, r#"1 changes: survivor("7", "event 0 of this instance")"#);
}

/// A guest of which the code decides between two answers; both write `kind` 1 first, the second one
/// then another.
fn two_faced(mut guest: Guest, first_call: &str, decides: &str) -> Plugin {
    let (one, two) = ([Argument::Int64(1); 2], [Argument::Int64(2); 2]);
    let answer = guest.changes(&[(0, &one)]);
    let other = guest.changes(&[(0, &one), (0, &two)]);
    let code = format!(
        "{first_call} (if (result i32) {decides} (then (i32.const {other})) (else (i32.const {answer})))"
    );
    load(&guest.project(&code).component(), &Limits::default())
}

#[test]
fn a_call_with_rows_is_held_against_the_same_rows() {
    let plugin = |decides: &str| {
        let mut guest = describing(&descriptor("two-faced"));
        let needs = guest.needs(&[(0, &[Argument::Int64(7)])]);
        let first = format!("(if (i32.eqz (local.get $found_len)) (then (return (i32.const {needs}))))");
        two_faced(guest, &first, decides)
    };
    let events = ["a", "b", "c"].map(str::to_owned);
    let row = [Value::Int64(7), Value::Int64(1)];
    let found = checked(&plugin("(i32.gt_u (global.get $calls) (i32.const 1))"), &events, &row);
    assert_eq!(offsets(&found), [1, 2]);
    assert_eq!(found[0].outcome, "2 changes, after the first 1: count(2, 2)");
    assert_eq!(found[0].outcome_again, "1 changes, after the first 1:");
    // What it decides by is the event.
    let pure = plugin("(i32.eq (i32.load8_u (local.get $value)) (i32.const 98))");
    assert_eq!(checked(&pure, &events, &row), []);
}

#[test]
fn what_is_reported_is_bounded_and_printable() {
    let mut guest = describing(&descriptor("loud"));
    let answers = [b"\x1b[2J".repeat(50_000), b"\0".repeat(100_000)].map(|detail| {
        let [code, length] = guest.text(b"boring");
        let [detail, detail_length] = guest.text(&detail);
        let words = [0, 1, code, length, detail, detail_length];
        guest.put(&words.iter().flat_map(|word| (*word as u32).to_le_bytes()).collect::<Vec<_>>())
    });
    let code = format!(
        "(if (result i32) (i32.gt_u (global.get $calls) (i32.const 1))
           (then (i32.const {})) (else (i32.const {})))",
        answers[0], answers[1]
    );
    let plugin = load(&guest.project(&code).component(), &Limits::default());
    let found = checked(&plugin, &["a", "b"].map(str::to_owned), &[]);
    assert_eq!(offsets(&found), [1]);
    for shown in [&found[0].outcome, &found[0].outcome_again] {
        assert!(shown.starts_with("ignored (boring): ") && shown.ends_with('…'), "{shown}");
        assert!(shown.len() < 4_100 && !shown.contains(char::is_control), "{shown}");
    }
}

/// With failures of all kinds, and with rounds of rows.
#[test]
fn a_pure_plugin_is_never_suspected() {
    let hostile = load(&guest("hostile-guest"), &Limits::default());
    let deeds = ["write", "trap", "panic", "recurse", "loop", "null-key", "undeclared-code", "say", "nan"];
    let orders = deeds.map(|deed| format!(r#"{{"do": "{deed}", "id": "1"}}"#));
    assert_eq!(checked(&hostile, &orders, &[]), []);

    let ancestors = load(&guest("ancestors-guest"), &Limits::default());
    let births: Vec<String> =
        (0..30).map(|person| format!(r#"{{"id": "p{person}", "parent": "p1"}}"#)).collect();
    let row = ["p1", "p1", "p1"].map(|id| Value::Text(id.into()));
    assert_eq!(checked(&ancestors, &births, &row), []);
}

/// The database refused the one, and the machine may have been too slow for the other.
#[test]
fn what_others_decided_is_not_held_against_the_plugin() {
    let event = EventLimits { fuel: u64::MAX, time: Duration::ZERO, ..EventLimits::default() };
    let limits = Limits { event, ..Limits::default() };
    let plugin = load(&guest("hostile-guest"), &limits);
    let batch = batch(&["write", "loop"].map(|deed| format!(r#"{{"do": "{deed}", "id": "1"}}"#)));
    let refused = Failure::new(FailureKind::Refused, "overflow", "the sum is too large");
    assert_eq!(check(&plugin, &batch, &[Err(refused).into(), Ok(Answer::Changes(vec![])).into()], &[]), []);
}
