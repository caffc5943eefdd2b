//! A call that breaks off tells why and where.

use std::time::Duration;

use projector_config::{InstanceLimits, Limits};
use projector_core::event::Event;
use projector_core::event_failure::Failure;
use projector_sandbox::Instance;

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
        let instance = InstanceLimits { stack_bytes, ..InstanceLimits::default() };
        let plugin = load(&guest("hostile-guest"), &Limits { instance, ..Limits::default() });
        let mut instance = Instance::new(&plugin).unwrap();
        let code = failure(&mut instance, &deed("recurse")).code;
        (code, instance.fuel_used())
    };
    let [(small, less), (large, more)] = [64 << 10, 512 << 10].map(broke_off);
    // The small one is the host's, the large one ends behind the guest's own.
    assert_eq!([small, large], ["stack", "stack"]);
    assert!(less < more, "{less}, {more}");
}

/// C++'s mangling refers back to what was named before, so some hundred bytes stand for 2^60 names; and a name
/// of 15 MB would be copied for every frame.
#[test]
fn names_of_functions_neither_hold_the_host_up_nor_fill_its_memory() {
    let digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let reference = |at: usize| match at {
        0 => "S_".to_owned(),
        at if at <= 36 => format!("S{}_", &digits[at - 1..at]),
        at => format!("S1{}_", &digits[at - 37..at - 36]),
    };
    // Each argument is a template of the one before, twice.
    let doubling = (2..60).fold("_Z1f1a1bIS_S_E".to_owned(), |name, at| {
        format!("{name}{}I{before}{before}E", reference(1), before = reference(at))
    });
    for name in [doubling, "x".repeat(15_000_000)] {
        let guest = Guest::describing(&descriptor("named"))
            .declaring(&format!("(func ${name} (unreachable))"))
            .project(&format!("(call ${name}) (unreachable)"));
        let component = guest.component();
        let (done, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let plugin = load(&component, &Limits::default());
            let mut instance = Instance::new(&plugin).unwrap();
            let _ = done.send(failure(&mut instance, &event(0, "anything")));
        });
        let failure = told.recv_timeout(Duration::from_secs(120)).expect("it is told");
        let backtrace = failure.backtrace.expect("a backtrace");
        assert!(backtrace.contains(&name[..100]) && backtrace.len() < 5_000, "{backtrace}");
        assert!(failure.detail.len() < 5_000, "{}", failure.detail);
    }
}
