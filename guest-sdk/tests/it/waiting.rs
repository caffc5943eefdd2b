//! A handler that requires a row of another topic's event gives the same result in either order of the events.

use projector_sdk::prelude::*;
use projector_sdk::testing::{Handled, Harness};
use serde::Deserialize;
use serde_json::json;

#[derive(Debug, Clone, PartialEq, Eq, Table)]
#[table(name = "confirmed")]
struct Confirmed {
    #[key]
    id: String,
    paid: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Table)]
#[table(name = "trail")]
struct Trail {
    #[key]
    id: String,
    steps: String,
}

#[derive(Deserialize)]
struct Order {
    id: String,
    #[serde(default)]
    paid: bool,
}

#[derive(Deserialize)]
struct Step {
    id: String,
    step: String,
    #[serde(default)]
    needs_payment: bool,
}

struct Orders;

#[projection(name = "orders", ignores("asked" = "only a question"))]
impl Orders {
    #[on("order.confirmed.v1", writes(Confirmed), ordering_group = "order")]
    fn confirmed(event: Event<Order>, cx: &mut Context<Self>) -> Outcome {
        let Order { id, paid } = event.payload;
        cx.write(Confirmed { id, paid });
        Ok(())
    }

    #[on("order.step.v1", writes(Trail), reads(Confirmed, Trail), ordering_group = "order", waits = "1h")]
    fn step(event: Event<Step>, cx: &mut Context<Self>) -> Outcome {
        let Step { id, step, needs_payment } = event.payload;
        let confirmed = cx.require::<Confirmed>(&id)?;
        if needs_payment && !confirmed.paid {
            return cx.not_yet::<Confirmed, _>(&id);
        }
        let before = cx.get::<Trail>(&id)?.map(|trail| trail.steps + " ").unwrap_or_default();
        cx.write(Trail { id, steps: before + &step });
        Ok(())
    }

    #[on("order.asked.v1", reads(Confirmed))]
    fn asked(event: Event<Order>, cx: &mut Context<Self>) -> Outcome {
        cx.require::<Confirmed>(&event.payload.id)?;
        cx.ignore("asked", "")
    }
}

const HOUR_MS: i64 = 3_600_000;

fn step(harness: &mut Harness<Orders>, id: &str, step: &str, at_ms: i64) -> Handled {
    let payload = json!({"id": id, "step": step, "needs_payment": step.starts_with('$')});
    harness.event("order.step.v1").key(id).json(payload).timestamp_ms(at_ms).send()
}

fn confirm(harness: &mut Harness<Orders>, id: &str, paid: bool, at_ms: i64) {
    let payload = json!({"id": id, "paid": paid});
    harness.event("order.confirmed.v1").key(id).json(payload).timestamp_ms(at_ms).send().expect_applied();
}

fn trail(harness: &Harness<Orders>, id: &str) -> Option<String> {
    harness.row::<Trail>(id).map(|trail| trail.steps)
}

#[test]
fn events_wait_for_the_row_that_they_need_and_follow_in_order() {
    let mut harness = Harness::<Orders>::new();
    assert_eq!(step(&mut harness, "a", "1", 0).expect_waiting(), "confirmed with id = \"a\"");
    step(&mut harness, "a", "2", 1).expect_waiting();
    step(&mut harness, "b", "1", 2).expect_waiting();
    assert_eq!(harness.waiting(), 3);
    confirm(&mut harness, "a", false, 3);
    let done: Vec<u64> = harness.after_waiting().into_iter().map(Handled::expect_applied).collect();
    assert_eq!((done, harness.waiting()), (vec![1, 1], 1));
    assert_eq!(trail(&harness, "a").as_deref(), Some("1 2"));
    assert_eq!(trail(&harness, "b"), None);
}

#[test]
fn a_row_that_is_not_as_it_must_be_is_waited_for_as_well() {
    let mut harness = Harness::<Orders>::new();
    confirm(&mut harness, "a", false, 0);
    step(&mut harness, "a", "$1", 1).expect_waiting();
    step(&mut harness, "a", "2", 2).expect_waiting();
    confirm(&mut harness, "a", false, 3);
    assert_eq!(harness.waiting(), 2);
    confirm(&mut harness, "a", true, 4);
    assert_eq!(trail(&harness, "a").as_deref(), Some("$1 2"));
}

#[test]
fn an_event_fails_when_its_age_is_over_and_those_behind_it_go_on() {
    let mut harness = Harness::<Orders>::new();
    step(&mut harness, "a", "1", 0).expect_waiting();
    step(&mut harness, "a", "2", HOUR_MS).expect_waiting();
    confirm(&mut harness, "b", false, HOUR_MS);
    assert_eq!(harness.waiting(), 2, "it may come within the hour");
    confirm(&mut harness, "a", false, HOUR_MS + 1);
    let done = harness.after_waiting();
    let [failed, applied] = &done[..] else { panic!("{done:?}") };
    failed.clone().expect_rejected("not-yet");
    applied.clone().expect_applied();
    assert_eq!(trail(&harness, "a").as_deref(), Some("2"));
}

#[test]
#[should_panic(expected = "add `waits = \"24h\"`")]
fn a_handler_that_does_not_say_that_it_waits_may_not() {
    let mut harness = Harness::<Orders>::new();
    drop(harness.event("order.asked.v1").key("a").json(json!({"id": "a"})).send());
}
