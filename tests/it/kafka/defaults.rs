//! The defaults fit each other: what `kafka.value-bytes` lets in, the limits of a plugin let through.

use projector_config::{Limits, VALUE_BYTES};
use projector_workload::{ORDER_CONFIRMED, Publisher, Record};
use serde_json::{Value, json};

use crate::harness::{ORDER_SEARCH, Platform, ReadModel, assert_closed};

/// An order of so many bytes, all of them in its items.
fn order(id: &str, bytes: usize) -> Vec<u8> {
    let item = json!({"sku": "yoga-mat", "qty": 1, "priceCents": 4_200});
    let order = |items: Vec<Value>, ballast: &str| {
        json!({
            "eventId": id, "schemaVersion": 2, "occurredAt": "2025-10-01T12:00:00Z",
            "order": {"id": id, "customerId": "c", "customerEmail": ballast, "customerName": "n",
                "currency": "EUR", "totalCents": 4_200, "items": items},
        })
        .to_string()
    };
    let empty = order(Vec::new(), "").len();
    let each = item.to_string().len() + 1;
    let items = (bytes - empty) / each;
    let without = order(vec![item.clone(); items], "").len();
    let payload = order(vec![item; items], &"x".repeat(bytes - without));
    assert_eq!(payload.len(), bytes);
    payload.into_bytes()
}

/// At the limits that nobody set.
#[test]
fn the_largest_order_is_projected_at_the_defaults() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let platform = Platform::new("defaults", &[ORDER_SEARCH], read_model);
        let topic = platform.topic(ORDER_CONFIRMED);
        platform.create_topics(1);
        let record = |id: &str, bytes| Record::new(&*topic, "c", order(id, bytes));
        let records = [record("small", 1_000), record("middle", 1_000_000), record("large", VALUE_BYTES)];
        // Packed, all of them are far smaller than what a broker takes.
        let publisher = Publisher::new(platform.brokers()).property("message.max.bytes", "20000000");
        publisher.publish(&records).unwrap();
        let host = platform.start_host("host");
        let status = platform.until_fresh();
        assert_closed(&status[ORDER_SEARCH], 3, 0, 0);
        let orders = platform.read_model().orders();
        let ids: Vec<_> = orders.keys().map(String::as_str).collect();
        assert_eq!(ids, ["large", "middle", "small"]);
        host.sigterm();
    }
}

#[test]
fn the_bounds_of_a_value_fit_each_other() {
    let Limits { event, instance, .. } = Limits::default();
    let bytes = VALUE_BYTES;
    // Written again as a document, with what else its row has.
    assert!(event.output_bytes >= 2 * bytes, "{event:?}");
    // Given, read into values, and answered.
    assert!(instance.memory_bytes >= 8 * bytes, "{instance:?}");
    // Read and written: some hundred instructions a byte.
    assert!(event.fuel_per_byte >= 200, "{event:?}");
}
