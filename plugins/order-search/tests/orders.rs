//! The outcome of single events.

use order_search::{Customer, Item, OrderRow, OrderSearch};
use projector_sdk::prelude::*;
use projector_sdk::testing::{Handled, Harness};
use serde_json::{Value, json};

fn order() -> Value {
    json!({
        "eventId": "e1", "schemaVersion": 2, "occurredAt": "2026-02-28T12:00:00.5Z",
        "order": {
            "id": "o1", "customerId": "c1", "customerEmail": "ann@example.com", "customerName": "Ann",
            "customerCountry": "DE", "currency": "EUR", "totalCents": 4200,
            "items": [{"sku": "yoga-mat", "qty": 1, "priceCents": 4200}],
        },
    })
}

fn send(harness: &mut Harness<OrderSearch>, order: &Value) -> Handled {
    harness
        .event("order.confirmed.v2")
        .key("o1")
        .header("x-event-id", "e1")
        .header("x-trace-id", "t1")
        .json(order)
        .send()
}

#[test]
fn an_order_of_an_unknown_customer_is_as_it_says() {
    let mut harness = Harness::<OrderSearch>::new();
    assert_eq!(send(&mut harness, &order()).expect_applied(), 1);
    assert_eq!(
        harness.rows::<OrderRow>(),
        [OrderRow {
            order_id: "o1".into(),
            customer_id: "c1".into(),
            customer_country: "DE".into(),
            customer_email: Some("ann@example.com".into()),
            customer_name: Some("Ann".into()),
            currency: "EUR".into(),
            total_cents: 4200,
            items: Json(vec![Item { sku: "yoga-mat".into(), qty: 1, price_cents: 4200 }]),
            confirmed_at: "2026-02-28T12:00:00.5Z".parse().unwrap(),
        }]
    );
    assert_eq!(harness.rows::<Customer>(), [], "an order is no authority on its customer");
}

#[test]
fn an_order_without_a_country_is_of_an_unknown_one() {
    let mut harness = Harness::<OrderSearch>::new();
    for country in [Value::Null, json!({})] {
        let mut order = order();
        let fields = order["order"].as_object_mut().unwrap();
        match country {
            Value::Null => fields.insert("customerCountry".into(), Value::Null),
            _ => fields.remove("customerCountry"),
        };
        assert_eq!(send(&mut harness, &order).expect_applied(), 1);
        assert_eq!(harness.row::<OrderRow>("o1").map(|row| row.customer_country), Some("unknown".into()));
    }
}

#[test]
fn orders_of_other_schemas_and_currencies_are_told_apart() {
    let mut harness = Harness::<OrderSearch>::new();
    let mut changed = |at: &str, value: Value| {
        let mut order = order();
        *order.pointer_mut(at).unwrap() = value;
        send(&mut harness, &order)
    };
    assert_eq!(changed("/schemaVersion", json!(1)).expect_ignored("old-schema"), "schemaVersion 1");
    assert_eq!(changed("/schemaVersion", json!(3)).expect_rejected("unknown-schema"), "schemaVersion 3");
    assert_eq!(changed("/order/currency", json!("DOGE")).expect_rejected("unknown-currency"), "DOGE");
    let detail = changed("/order/totalCents", json!("4200")).expect_rejected("bad-payload");
    assert!(detail.ends_with("in `order.totalCents`"), "{detail}");
    changed("/occurredAt", json!("yesterday")).expect_rejected("bad-payload");
    changed("/order/customerName", json!("A\0nn")).expect_rejected("invalid-value");
    harness.event("order.confirmed.v2").key("o1").send().expect_rejected("bad-payload");
    assert_eq!(harness.rows::<OrderRow>(), []);
}

/// An order of an older schema has other fields. It must be ignored, and not rejected because of these fields.
#[test]
fn an_old_order_is_ignored_whatever_else_it_says() {
    let mut harness = Harness::<OrderSearch>::new();
    let old = json!({"eventId": "e0", "schemaVersion": 1, "orderId": "o0", "total": "42.00"});
    send(&mut harness, &old).expect_ignored("old-schema");
    let new = json!({"eventId": "e9", "schemaVersion": 3, "orders": []});
    send(&mut harness, &new).expect_rejected("unknown-schema");
}
