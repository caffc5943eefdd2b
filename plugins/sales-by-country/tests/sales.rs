//! The sums show how often each event was applied.

use projector_sdk::Date;
use projector_sdk::testing::{Handled, Harness};
use sales_by_country::{Sales, SalesByCountry};
use serde_json::json;

fn send(
    harness: &mut Harness<SalesByCountry>,
    schema: u32,
    at: &str,
    country: Option<&str>,
    cents: i64,
) -> Handled {
    let order = json!({
        "eventId": "e1", "schemaVersion": schema, "occurredAt": at,
        "order": {"id": "o1", "customerId": "c1", "customerCountry": country, "currency": "EUR", "totalCents": cents},
    });
    harness.event("order.confirmed.v2").key("o1").json(order).send()
}

fn sales(country: &str, day: u8, orders: i64, total_cents: i64) -> Sales {
    let day = Date::new(2026, 3, day).expect("a day of March");
    Sales { country: country.into(), day, currency: "EUR".into(), orders, total_cents }
}

#[test]
fn orders_add_up_by_country_and_utc_day() {
    let mut harness = Harness::<SalesByCountry>::new();
    for (at, country, cents) in [
        ("2026-03-01T00:00:00Z", Some("DE"), 100),
        ("2026-03-01T23:59:59.999999Z", Some("DE"), 20),
        ("2026-03-02T00:30:00+01:00", Some("DE"), 3),
        ("2026-03-02T00:00:00Z", Some("DE"), 1000),
        ("2026-03-01T12:00:00Z", None, 7),
    ] {
        assert_eq!(send(&mut harness, 2, at, country, cents).expect_applied(), 1);
    }
    assert_eq!(
        harness.rows::<Sales>(),
        [sales("DE", 1, 3, 123), sales("DE", 2, 1, 1000), sales("unknown", 1, 1, 7)]
    );
    let day = Date::new(2026, 3, 2).unwrap();
    assert_eq!(harness.row::<Sales>(("DE", &day, "EUR")), Some(sales("DE", 2, 1, 1000)));
}

#[test]
fn a_duplicate_shows() {
    let mut harness = Harness::<SalesByCountry>::new();
    for _ in 0..2 {
        send(&mut harness, 2, "2026-03-01T00:00:00Z", Some("DE"), 100).expect_applied();
    }
    assert_eq!(harness.rows::<Sales>(), [sales("DE", 1, 2, 200)]);
}

#[test]
fn what_does_not_count_leaves_the_sums_alone() {
    let mut harness = Harness::<SalesByCountry>::new();
    let noon = "2026-03-01T12:00:00Z";
    send(&mut harness, 2, noon, Some("DE"), i64::MAX).expect_applied();
    send(&mut harness, 1, noon, Some("DE"), 1).expect_ignored("old-schema");
    send(&mut harness, 3, noon, Some("DE"), 1).expect_rejected("unknown-schema");
    send(&mut harness, 2, noon, Some("DE"), 1).expect_rejected("overflow");
    assert_eq!(harness.rows::<Sales>(), [sales("DE", 1, 1, i64::MAX)]);
}
