//! Transactions of producers, and what compaction leaves: a log with gaps, markers and tombstones.

use projector_workload::topics::{self, Topic};
use projector_workload::{CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED, ORDER_CONFIRMED, Record};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::harness::{PATIENCE, Partition, Platform, ReadModel, SALES_BY_COUNTRY, eventually, seed, topic};

const PARTITIONS: i32 = 2;

/// The component's file, and the projection that it is.
const HOSTILE_GUEST: &str = "hostile-guest";
const HOSTILE: &str = "hostile";

/// A producer with transactions of its own.
fn producer(platform: &Platform) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", platform.brokers())
        .set("transactional.id", platform.topic("transactions"))
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

/// Begins a transaction; returns when all of these lie in the log.
fn begin_with(producer: &BaseProducer, records: &[Record]) {
    producer.begin_transaction().unwrap();
    for record in records {
        let mut outgoing = BaseRecord::<[u8], [u8]>::to(&record.topic);
        outgoing.key = record.key.as_deref();
        outgoing.payload = record.payload.as_deref();
        producer.send(outgoing).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// Orders, each for every partition once in a while.
fn orders(platform: &Platform, seed: u64, events: usize) -> Vec<Record> {
    let topic = platform.topic(ORDER_CONFIRMED);
    platform.workload(seed, events).records().filter(|record| record.topic == topic).collect()
}

fn partitions(platform: &Platform) -> Vec<Partition> {
    platform.status().unwrap().remove(SALES_BY_COUNTRY).unwrap().partitions
}

/// The end of each partition, open transactions included.
fn high_marks(platform: &Platform) -> Vec<i64> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", platform.brokers())
        .set("isolation.level", "read_uncommitted")
        .create()
        .unwrap();
    let topic = platform.topic(ORDER_CONFIRMED);
    (0..PARTITIONS).map(|partition| client.fetch_watermarks(&topic, partition, PATIENCE).unwrap().1).collect()
}

/// Waits until no transaction is open: a producer is told before the markers are in the log.
fn until_markers_are_written(platform: &Platform) {
    eventually("the transactions' markers are in the log", || {
        let (stable, high) = (
            partitions(platform).iter().map(|partition| partition.log_end).collect::<Vec<_>>(),
            high_marks(platform),
        );
        if stable == high { Ok(()) } else { Err((stable, high)) }
    });
}

/// Fault 9: what was aborted is invisible, and so are the markers at the end of the log.
#[test]
fn aborted_transactions_leave_nothing_and_markers_are_no_lag() {
    let platform =
        Platform::new("aborted", &[SALES_BY_COUNTRY], ReadModel::postgres()).set(&["batch", "events"], 50);
    platform.create_topics(PARTITIONS);
    let records = orders(&platform, seed(361), 1_000);
    let host = platform.start_host("reader");
    // The status tells of it from then on.
    host.group(SALES_BY_COUNTRY);
    let producer = producer(&platform);
    let (mut committed, mut aborted, mut transactions) = (0, 0, 0);
    for (number, records) in records.chunks(100).enumerate() {
        begin_with(&producer, records);
        transactions += 1;
        // The last of them is aborted.
        if number % 2 == 0 {
            producer.commit_transaction(PATIENCE).unwrap();
            committed += records.len() as i64;
        } else {
            producer.abort_transaction(PATIENCE).unwrap();
            aborted += records.len() as i64;
        }
    }
    until_markers_are_written(&platform);
    let expected = platform.assert_sales_are_right();
    assert_eq!(expected.sales_books.read.values().sum::<u64>() as i64, committed);
    let log: i64 = partitions(&platform).iter().map(|partition| partition.log_end).sum();
    assert_eq!(log, committed + aborted + transactions * i64::from(PARTITIONS), "not what was published");
    for partition in partitions(&platform) {
        let checkpoint = partition.checkpoint.unwrap();
        assert!(partition.lag == 0 && checkpoint < partition.log_end, "no marker at the end: {partition:?}");
    }
    host.sigterm();
}

/// Fault 9: a transaction that is still open is nobody's lag, and holds back what comes after it. How
/// long it has been open is shown.
#[test]
fn an_open_transaction_is_not_read_before_its_commit() {
    let platform = Platform::new("open", &[SALES_BY_COUNTRY], ReadModel::postgres());
    platform.create_topics(PARTITIONS);
    let records = orders(&platform, seed(362), 1_200);
    let (before, rest) = records.split_at(300);
    let (open, behind) = rest.split_at(300);
    platform.publish(before);
    let host = platform.start_host("reader");
    platform.assert_sales_are_right();

    let producer = producer(&platform);
    begin_with(&producer, open);
    platform.publish(behind);
    let expected = platform.assert_sales_are_right();
    assert_eq!(expected.sales_books.read.values().sum::<u64>() as usize, before.len());
    for (partition, high) in partitions(&platform).iter().zip(high_marks(&platform)) {
        assert_eq!(partition.checkpoint, Some(partition.log_end), "{partition:?}");
        assert!(
            partition.log_end < high,
            "no transaction is open: {partition:?}, and the log goes to {high}"
        );
    }
    let ages = || partitions(&platform).into_iter().map(|partition| partition.open_transaction_ms);
    let before: Vec<Option<i64>> = ages().collect();
    for (before, now) in before.into_iter().zip(ages()) {
        assert!(before.is_some_and(|before| before > 0 && now > Some(before)), "{before:?} → {now:?}");
    }

    producer.commit_transaction(PATIENCE).unwrap();
    until_markers_are_written(&platform);
    let expected = platform.assert_sales_are_right();
    assert_eq!(expected.sales_books.read.values().sum::<u64>() as usize, records.len());
    assert_eq!(ages().collect::<Vec<_>>(), [None; PARTITIONS as usize]);
    host.sigterm();
}

/// A topic that is compacted as soon as a segment is closed, which the next publication does.
fn compacted(name: String) -> Topic {
    Topic::new(name, PARTITIONS)
        .setting("cleanup.policy", "compact")
        .setting("min.cleanable.dirty.ratio", "0.001")
        .setting("segment.ms", "1")
}

/// Publishes records whose last one of a key is all that compaction leaves, then one record of
/// another key in each partition, so that all the others lie in closed segments. Waits until
/// compaction is through with them.
fn publish_compacted(platform: &Platform, name: &str, rounds: &[Vec<Record>], last: Vec<Record>) {
    for round in rounds {
        platform.publish(round);
    }
    let survivors = rounds.last().expect("there are rounds").len() + last.len();
    platform.publish(&last);
    eventually(&format!("{name} is compacted"), || match topic::read(platform.brokers(), name).len() {
        left if left == survivors => Ok(()),
        left => Err(left),
    });
}

/// With a partition of its own, at a time after all others.
fn record(topic: &str, partition: i32, key: &str, payload: Option<String>, timestamp_ms: i64) -> Record {
    Record {
        partition: Some(partition),
        payload: payload.map(String::into_bytes),
        timestamp_ms: Some(timestamp_ms),
        ..Record::new(topic, key, "")
    }
}

/// Fault 10: offsets that compaction left out are no events, and no lag.
#[test]
fn gaps_of_compaction_are_passed_over() {
    let platform =
        Platform::new("gaps", &[SALES_BY_COUNTRY], ReadModel::postgres()).set(&["batch", "events"], 20);
    let name = platform.topic(ORDER_CONFIRMED);
    let others = [CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED].map(|other| platform.topic(other));
    let mut made = others.map(|other| Topic::new(other, 1)).to_vec();
    made.push(compacted(name.clone()));
    topics::create(platform.brokers(), &made).unwrap();
    let order = |round: i64, number: i64| {
        let partition = number as i32 % PARTITIONS;
        let payload = format!(
            r#"{{"eventId": "{round}-{number}", "schemaVersion": 2, "occurredAt": "2025-10-0{}T00:00:00Z",
                "order": {{"id": "o-{number}", "customerId": "c", "customerEmail": "c@example.com",
                "customerName": "C", "customerCountry": "DE", "currency": "EUR", "totalCents": {number},
                "items": []}}}}"#,
            1 + round
        );
        record(&name, partition, &format!("o-{number}"), Some(payload), 1_760_000_000_000 + round * 60_000)
    };
    let rounds: Vec<Vec<Record>> =
        (0..4).map(|round| (0..200).map(|number| order(round, number)).collect()).collect();
    let last = (1_000..1_000 + i64::from(PARTITIONS)).map(|number| order(5, number)).collect();
    publish_compacted(&platform, &name, &rounds, last);

    let host = platform.start_host("reader");
    let expected = platform.assert_sales_are_right();
    let read = expected.sales_books.read.values().sum::<u64>();
    let checkpoints: i64 = platform.read_model().checkpoints(SALES_BY_COUNTRY).values().sum();
    assert_eq!((read, checkpoints), (202, 802), "600 offsets are gone");
    host.sigterm();
}

/// Fault 10: a tombstone is an event without a payload. This plugin knows none such: it rejects
/// them, and the rest goes on.
#[test]
fn tombstones_reach_the_plugin() {
    let platform = Platform::new("tombstones", &[HOSTILE_GUEST], ReadModel::postgres());
    let name = platform.topic("hostile.events.v1");
    topics::create(platform.brokers(), &[compacted(name.clone())]).unwrap();
    let event = |round: i64, number: i32, dead: bool| {
        let payload = (!dead).then(|| format!(r#"{{"do": "write", "id": "{number}"}}"#));
        let time = 1_760_000_000_000 + round * 60_000;
        record(&name, number % PARTITIONS, &format!("k-{number}"), payload, time)
    };
    let first = (0..100).map(|number| event(0, number, false)).collect();
    let second = (0..100).map(|number| event(1, number, number % 10 < 3)).collect();
    let last = (200..200 + PARTITIONS).map(|number| event(2, number, false)).collect();
    publish_compacted(&platform, &name, &[first, second], last);

    let host = platform.start_host("reader");
    let status = eventually("all is read", || match platform.status()?.remove(HOSTILE) {
        Some(status) if status.fresh => Ok(status),
        other => Err(format!("{other:?}")),
    });
    let counters = status.counters;
    assert_eq!((counters.read, counters.applied, counters.dead), (102, 72, 30), "{counters:?}");
    assert_eq!(status.dead_letters, 30);
    let letters = platform.read_model().query(
        "select convert_from(key, 'UTF8'), code, (payload is null)::text from projector.dead_letter
         order by partition, \"offset\"",
    );
    assert_eq!(letters.len(), 30);
    for letter in &letters {
        let [Some(key), Some(code), Some(without_payload)] = letter.as_slice() else { panic!("{letter:?}") };
        assert!(key.starts_with("k-"));
        assert_eq!((code.as_str(), without_payload.as_str()), ("bad-payload", "true"), "{key}");
    }
    let rows = platform.read_model().query("select id, note from hostile.survivor");
    assert_eq!(rows.len(), 72, "the rows are those of the events with a payload");
    host.sigterm();
}
