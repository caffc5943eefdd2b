//! The harness ignores the same duplicates as the host: events with an id that was handled before.

use projector_sdk::prelude::*;
use projector_sdk::testing::{Handled, Harness};
use serde::Deserialize;
use serde_json::json;

#[derive(Debug, Clone, PartialEq, Eq, Table)]
struct Sold {
    #[key]
    sku: String,
    quantity: i64,
}

#[derive(Upsert)]
#[upsert(table = Sold)]
struct Sell {
    sku: String,
    #[operation(add)]
    quantity: i64,
}

#[derive(Deserialize)]
struct Sale {
    sku: String,
}

struct Sales;

#[projection(name = "sales", rejects("no-sku" = "nothing was sold"))]
impl Sales {
    #[on("sale.header.v1", writes(Sell), event_id(header = "x-event-id", window = "1h"))]
    #[on("sale.field.v1", writes(Sell), event_id(field = "saleId", window = "1h"))]
    #[on("sale.cloud.v1", writes(Sell), event_id(header = "ce_source", header = "ce_id", window = "1h"))]
    #[on("sale.plain.v1", writes(Sell))]
    fn sold(event: Event<Sale>, cx: &mut Context<Self>) -> Outcome {
        if event.payload.sku.is_empty() {
            return cx.reject("no-sku", "");
        }
        cx.write(Sell { sku: event.payload.sku, quantity: 1 });
        Ok(())
    }
}

fn send(harness: &mut Harness<Sales>, topic: &str, sku: &str, headers: &[(&str, &str)]) -> Handled {
    let event = harness.event(topic).json(json!({"sku": sku, "saleId": sku.len()}));
    headers.iter().fold(event, |event, (name, value)| event.header(name, value)).send()
}

fn is_skipped(handled: Handled) -> bool {
    matches!(handled, Handled::Ignored { code, .. } if code == "duplicate")
}

#[test]
fn an_event_of_an_id_that_was_handled_is_skipped() {
    let mut harness = Harness::<Sales>::new();
    let mut header = |id: &str| {
        is_skipped(send(&mut harness, "sale.header.v1", "mat", &[("x-event-id", "old"), ("x-event-id", id)]))
    };
    // The last header counts, and an empty id is no id.
    assert_eq!(["1", "2", "1", "", ""].map(&mut header), [false, false, true, false, false]);
    assert_eq!(harness.row::<Sold>("mat").map(|row| row.quantity), Some(4));
    let mut field = |sku: &str| is_skipped(send(&mut harness, "sale.field.v1", sku, &[]));
    assert_eq!(["ball", "mug", "bowl"].map(&mut field), [false, false, true]);
    let mut cloud = |source: &str, id: &str| {
        is_skipped(send(&mut harness, "sale.cloud.v1", "mat", &[("ce_source", source), ("ce_id", id)]))
    };
    assert_eq!(
        [cloud("a", "1"), cloud("a1", ""), cloud("b", "1"), cloud("a", "1")],
        [false, false, false, true]
    );
    let mut plain = || is_skipped(send(&mut harness, "sale.plain.v1", "mat", &[("x-event-id", "1")]));
    assert_eq!([plain(), plain()], [false, false]);
}

/// The outcome of the first event does not matter, in the host as well.
#[test]
fn the_id_of_a_rejected_event_is_remembered_as_well() {
    let mut harness = Harness::<Sales>::new();
    send(&mut harness, "sale.header.v1", "", &[("x-event-id", "1")]).expect_rejected("no-sku");
    let detail =
        send(&mut harness, "sale.header.v1", "mat", &[("x-event-id", "1")]).expect_ignored("duplicate");
    assert!(detail.contains("offset 0"), "{detail}");
    // The producers of another topic, or of another topic in Kafka, may use the same ids.
    let event = harness.event("sale.header.v1").topic_name("eu.sale").header("x-event-id", "1");
    event.json(json!({"sku": "mat"})).send().expect_applied();
}

#[test]
fn ids_are_forgotten_after_the_window_in_event_time() {
    let mut harness = Harness::<Sales>::new();
    let mut at = |minutes: i64| {
        let event = harness.event("sale.header.v1").header("x-event-id", "1").timestamp_ms(minutes * 60_000);
        is_skipped(event.json(json!({"sku": "mat"})).send())
    };
    assert_eq!([at(0), at(60), at(61), at(62)], [false, true, false, true]);
}
