//! A call that breaks off tells why and where.

use projector::config::Limits;
use projector::event::Event;
use projector::outcome::Failure;
use projector::plugin::Instance;

use crate::harness::{Guest, descriptor, event, guest, load};

fn deed(deed: &str) -> Event {
    event(0, &format!(r#"{{"do": "{deed}", "id": "1"}}"#))
}

#[track_caller]
fn failure(instance: &mut Instance, event: &Event) -> Failure {
    instance.project(event, &[]).expect_err("it breaks off")
}

/// By a log that drops every line.
#[test]
fn a_panic_is_told_with_its_message_its_place_and_the_functions_that_led_to_it() {
    let plugin = load(&guest("hostile-guest"), &Limits { log_lines: 0, ..Limits::default() });
    let failure = failure(&mut Instance::new(&plugin).unwrap(), &deed("panic"));
    let lines: Vec<&str> = failure.detail.lines().collect();
    assert!(lines[0].starts_with("panicked at tests/guests/hostile/src/instance.rs:"), "{failure:?}");
    assert_eq!(lines[1], "the hostile guest panics");
    assert!(lines[2].contains("unreachable") && lines.len() == 3, "{failure:?}");
    let backtrace = failure.backtrace.as_deref().unwrap_or_default();
    assert!(
        backtrace.contains("<hostile::Hostile as projector_sdk::declare::projection::Projection>::project"),
        "{backtrace}"
    );
    assert!(backtrace.lines().count() > 3 && backtrace.len() < 5_000, "{backtrace}");
}

#[test]
fn what_an_earlier_call_logged_is_not_taken_for_the_reason() {
    let plugin = load(&guest("hostile-guest"), &Limits::default());
    let mut instance = Instance::new(&plugin).unwrap();
    instance.project(&deed("say"), &[]).unwrap();
    let failure = failure(&mut instance, &deed("trap"));
    assert!(failure.detail.starts_with("wasm trap"), "{failure:?}");
}

/// Whatever it is written in.
#[test]
fn the_last_error_that_was_logged_is_the_reason() {
    let mut guest = Guest::describing(&descriptor("talker"));
    let lines = [(3, "\u{1b}[31mfirst"), (3, "it cannot go on\u{0}"), (2, "a warning")];
    let logged: String = lines
        .iter()
        .map(|(level, line)| {
            let [at, length] = guest.text(line.as_bytes());
            format!("(call $log (i32.const {level}) (i32.const {at}) (i32.const {length}))")
        })
        .collect();
    let plugin = load(&guest.project(&format!("{logged} (unreachable)")).component(), &Limits::default());
    let failure = failure(&mut Instance::new(&plugin).unwrap(), &event(0, "anything"));
    assert!(failure.detail.starts_with("it cannot go on\\u{0}\nwasm trap"), "{failure:?}");
}

/// An endless recursion fills the stack that it may have. Where that is large enough, Rust's own, in the
/// guest's memory, is full before.
#[test]
fn a_projection_may_have_a_stack_of_its_own() {
    let broke_off = |stack_bytes: usize| {
        let plugin = load(&guest("hostile-guest"), &Limits { stack_bytes, ..Limits::default() });
        let mut instance = Instance::new(&plugin).unwrap();
        let code = failure(&mut instance, &deed("recurse")).code;
        (code, instance.fuel_used())
    };
    let [(small, less), (large, more)] = [64 << 10, 512 << 10].map(broke_off);
    // The small one is the host's, the large one ends behind the guest's own.
    assert_eq!([small, large], ["stack", "stack"]);
    assert!(less < more, "{less}, {more}");
}
