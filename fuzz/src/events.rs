//! Kafka records: a producer may write anything.
//!
//! An input is text, so that one can read what was found: `topic timestamp key` on the first line,
//! then a header on each line as `name: value`, an empty line, and the payload. Without the empty line
//! it is a tombstone.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use order_search::OrderSearch;
use projector::validate;
use projector_core::batch::Delivery;
use projector_core::duplicate::{Ids, Known};
use projector_core::event::{Event, Header, Partition, Position};
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_model::change::codes;
use projector_model::descriptor::IdPart;
use projector_model::{Type, Value};
use projector_sdk::Projection;
use projector_sdk::testing::{Handled, Harness};
use projector_workload::{
    CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED, Mix, ORDER_CONFIRMED, Workload,
};
use sales_by_country::SalesByCountry;
use serde_json::Map;

use crate::{CONTRACT, Shape, Target};

pub(crate) const TARGET: Target =
    Target { name: "events", check, seeds, most_bytes: 4_096, shape: Shape::Json { begins: payload } };

/// It has an id or none, whatever its payload is; what a plugin makes of it, the host takes; and it can
/// be stored as a dead letter that still tells what came.
fn check(bytes: &[u8]) -> bool {
    let event = event(bytes);
    told_by_its_id(&event);
    kept_as_a_dead_letter(&event);
    assert!(event.recorded_at_micros().is_none_or(|at| Value::Timestamp(at).fit(Type::Timestamp).is_ok()));
    assert!(event.size_bytes() >= event.value.as_ref().map_or(0, Vec::len));
    let searched = projected(&ORDER_SEARCH, &event);
    let sold = projected(&SALES_BY_COUNTRY, &event);
    searched || sold
}

/// Where it begins, if it is there.
fn payload(bytes: &[u8]) -> usize {
    bytes.windows(2).position(|pair| pair == b"\n\n").map_or(bytes.len(), |end| end + 2)
}

fn event(bytes: &[u8]) -> Event {
    let (head, value) = match payload(bytes) {
        none if none == bytes.len() && !bytes.ends_with(b"\n\n") => (bytes, None),
        at => (&bytes[..at - 2], Some(bytes[at..].to_vec())),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next().unwrap_or_default().splitn(3, |byte| *byte == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<i64>().ok();
    Event {
        topic: number().unwrap_or_default() as u16,
        timestamp_ms: number(),
        position: Position { partition: Partition::new("t", 0), offset: 0 },
        key: words.next().map(<[u8]>::to_vec),
        value,
        also: Vec::new(),
        topic_name: "t".into(),
        oversize_bytes: None,
        headers: lines.map(header).collect(),
    }
}

fn header(line: &[u8]) -> Header {
    let (name, value) = match line.windows(2).position(|pair| pair == b": ") {
        Some(end) => (&line[..end], Some(line[end + 2..].to_vec())),
        None => (line, None),
    };
    // No broker makes sure that it is UTF-8.
    Header { name: name.to_vec(), value }
}

fn told_by_its_id(event: &Event) {
    let contract = &*CONTRACT;
    let mut event = event.clone();
    event.topic %= contract.topics.len() as u16;
    let declared = contract.topics[usize::from(event.topic)].event_id.as_ref();
    let batch = [Delivery { event: event.clone(), epoch: 0 }, Delivery { event: event.clone(), epoch: 0 }];

    let ids = Ids::of(contract, &batch);
    let has_id = !ids.given().is_empty();
    let again = ids.duplicates(&Known::default());
    assert_eq!(again, [vec![], if has_id { vec![true] } else { vec![] }]);
    let known = ids.duplicates(&ids.given().iter().map(|id| (id.clone(), None)).collect());
    assert!(known.iter().all(|again| again.contains(&true) == has_id));
    assert_eq!(ids.remembered(&batch, &again).len(), usize::from(has_id));

    match declared.map(|id| &id.parts[..]) {
        None => assert!(!has_id),
        Some([IdPart::Header(name)]) => {
            let last = event.headers.iter().rev().find(|header| header.name == name.as_bytes());
            let value = last.and_then(|header| header.value.as_deref());
            assert_eq!(has_id, value.is_some_and(|value| !value.is_empty()));
        }
        Some([IdPart::Field(name)]) => {
            let payload = serde_json::from_slice(event.value.as_deref().unwrap_or_default());
            // A payload that is no object at all has no id; half of one may have.
            if let Ok(object) = payload {
                let object: Map<String, serde_json::Value> = object;
                let value = object.get(name).filter(|value| value.as_str() != Some(""));
                assert_eq!(has_id, value.is_some_and(|value| value.is_string() || value.is_number()));
            }
        }
        // The parts are each told as one alone is.
        Some(_) => {}
    }
}

fn kept_as_a_dead_letter(event: &Event) {
    let failure = Failure::new(
        FailureKind::Rejected,
        "odd",
        String::from_utf8_lossy(&event.value.clone().unwrap_or_default()),
    );
    storable(&failure);
    let json = event.headers_json();
    Value::Json(json.to_string()).fit(Type::Json).unwrap_or_else(|problem| panic!("{problem}: {json}"));
    // A dead letter that is retried is the event that it was.
    assert_eq!(Event::headers_from(&json), event.headers);
}

fn storable(failure: &Failure) {
    assert!(failure.detail.len() <= 4_100, "{} bytes", failure.detail.len());
    assert_eq!(Value::Text(failure.detail.clone()).fit(Type::Text), Ok(()));
}

/// With some customers and orders in their tables.
static ORDER_SEARCH: LazyLock<Harness<OrderSearch>> = LazyLock::new(|| {
    let mut harness = Harness::new();
    for event in records().map(|record| event(&record)) {
        projected_in(&mut harness, &event);
    }
    harness
});
static SALES_BY_COUNTRY: LazyLock<Harness<SalesByCountry>> = LazyLock::new(Harness::new);

fn projected<P: Projection>(harness: &Harness<P>, event: &Event) -> bool {
    projected_in(&mut harness.clone(), event)
}

/// The harness is the host's part, and panics where the host would hold it against the plugin.
fn projected_in<P: Projection>(harness: &mut Harness<P>, event: &Event) -> bool {
    let topic = usize::from(event.topic) % harness.contract().topics.len();
    let name = harness.contract().topics[topic].name.clone();
    let mut delivery = harness.event(&name);
    if let Some(key) = &event.key {
        delivery = delivery.key(key);
    }
    if let Some(value) = &event.value {
        delivery = delivery.value(value);
    }
    match delivery.send() {
        Handled::Applied { mut changes, .. } => {
            let taken = validate::changes(harness.contract(), topic as u16, &mut changes);
            taken.unwrap_or_else(|failure| panic!("the host refuses what the harness applied: {failure}"));
            true
        }
        Handled::Ignored { .. } | Handled::Waiting { .. } => false,
        Handled::Rejected { code, detail } => {
            assert!(code != codes::BAD_PAYLOAD || !detail.is_empty(), "rejected without a reason");
            storable(&Failure::new(FailureKind::Rejected, &code, detail));
            false
        }
    }
}

/// Some events of every topic, as producers write them.
fn records() -> impl Iterator<Item = Vec<u8>> {
    let now = UNIX_EPOCH + Duration::from_secs(1_750_000_000);
    let topics = [ORDER_CONFIRMED, CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED];
    let workload = Workload {
        mix: Mix { orders: 1, country_changes: 1, profile_updates: 1 },
        ..Workload::new(1, 12, now)
    };
    let records: Vec<_> = workload.records().collect();
    records.into_iter().map(move |record| {
        let topic = topics.iter().position(|topic| *topic == record.topic).unwrap_or_default();
        let mut bytes = format!("{topic} {} ", record.timestamp_ms.unwrap_or_default()).into_bytes();
        bytes.extend(record.key.unwrap_or_default());
        bytes.extend(b"\nx-event-id: e-1\ntrace\n\n");
        bytes.extend(record.payload.unwrap_or_default());
        bytes
    })
}

fn seeds() -> Vec<Vec<u8>> {
    records().collect()
}
