//! Kafka does not order the events of different topics. The rows are the same in every order.

use order_search::{Customer, OrderRow, OrderSearch};
use projector_sdk::testing::Harness;
use serde_json::{Value, json};

/// Events that Kafka keeps in order, because they have one key in one topic.
struct Source {
    topic: &'static str,
    key: &'static str,
    events: Vec<Value>,
}

fn order(id: &'static str, customer: &str, country: Option<&str>, email: Option<&str>) -> Source {
    let event = json!({
        "eventId": id, "schemaVersion": 2, "occurredAt": "2026-02-28T12:00:00Z",
        "order": {
            "id": id, "customerId": customer, "customerCountry": country, "customerEmail": email,
            "currency": "GBP", "totalCents": 1, "items": [],
        },
    });
    Source { topic: "order.confirmed.v2", key: id, events: vec![event] }
}

fn countries(customer: &'static str, countries: &[&str]) -> Source {
    let event = |country: &&str| json!({"eventId": "e", "occurredAt": "2026-02-28T12:00:00Z", "customerId": customer, "country": country});
    Source {
        topic: "customer.country.changed.v1",
        key: customer,
        events: countries.iter().map(event).collect(),
    }
}

fn profiles(customer: &'static str, names: &[&str]) -> Source {
    let event = |name: &&str| {
        json!({
            "eventId": "e", "occurredAt": "2026-02-28T12:00:00Z",
            "customerId": customer, "email": format!("{name}@example.com"), "name": name,
        })
    };
    Source { topic: "customer.profile.updated.v1", key: customer, events: names.iter().map(event).collect() }
}

/// Calls `check` with the rows, after each possible interleaving of the sources.
fn for_each_interleaving(
    sources: &[Source],
    sent: &mut Vec<usize>,
    harness: &Harness<OrderSearch>,
    check: &mut impl FnMut(&Harness<OrderSearch>),
) {
    let mut done = true;
    for (at, source) in sources.iter().enumerate() {
        let Some(event) = source.events.get(sent[at]) else { continue };
        done = false;
        let mut harness = harness.clone();
        harness.event(source.topic).key(source.key).json(event).send().expect_applied();
        sent[at] += 1;
        for_each_interleaving(sources, sent, &harness, check);
        sent[at] -= 1;
    }
    if done {
        check(harness);
    }
}

#[test]
fn every_interleaving_ends_with_the_same_rows() {
    let sources = [
        order("o1", "known", Some("AT"), Some("old@example.com")),
        order("o2", "known", None, None),
        order("o3", "stranger", Some("AT"), Some("stranger@example.com")),
        countries("known", &["FR", "DE"]),
        profiles("known", &["Anne", "Ann"]),
    ];
    let mut interleavings = 0;
    for_each_interleaving(&sources, &mut vec![0; sources.len()], &Harness::new(), &mut |harness| {
        interleavings += 1;
        let orders: Vec<_> = harness
            .rows::<OrderRow>()
            .into_iter()
            .map(|row| (row.order_id, row.customer_country, row.customer_email, row.customer_name))
            .collect();
        let ann =
            |order: &str| (order.into(), "DE".into(), Some("Ann@example.com".into()), Some("Ann".into()));
        let stranger = ("o3".into(), "AT".into(), Some("stranger@example.com".into()), None);
        assert_eq!(orders, [ann("o1"), ann("o2"), stranger]);

        let customers: Vec<_> = harness
            .rows::<Customer>()
            .into_iter()
            .map(|row| (row.customer_id, row.country, row.email, row.name))
            .collect();
        let known = ("known".into(), Some("DE".into()), Some("Ann@example.com".into()), Some("Ann".into()));
        assert_eq!(customers, [known]);
    });
    assert_eq!(interleavings, 7 * 6 * 5 * 4 * 3 * 2 / (2 * 2));
}

/// The host's own analysis agrees: the columns depend on the order between the topics, and the read of the customer
/// settles the dependence.
#[test]
fn the_declaration_says_what_settles_the_order() {
    let harness = Harness::<OrderSearch>::new();
    let dependences = projector_sdk::model::order::dependences(harness.contract());
    let columns: Vec<_> = dependences.iter().map(|found| found.column.as_str()).collect();
    assert_eq!(columns, ["customer_country", "customer_email", "customer_name"]);
    assert!(dependences.iter().all(|found| found.settled_by.is_some()), "{dependences:?}");
}
