//! A name and an address may come to mean another log. What a checkpoint is not about is not read,
//! whoever reads, and nobody else waits for that.

use projector_test_servers::Kafka;
use projector_workload::topics;
use projector_workload::{CUSTOMER_COUNTRY_CHANGED, ORDER_CONFIRMED, Record};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rustix::process::Signal;

use crate::harness::{
    Host, ORDER_SEARCH, PATIENCE, Partition, Platform, ReadModel, Rows, SALES_BY_COUNTRY, assert_same,
    eventually, fold, seed,
};

const PARTITIONS: i32 = 2;

fn history(platform: &Platform, seed: u64, events: usize) -> Vec<Record> {
    platform.workload(seed, events).records().collect()
}

/// A topic's partitions as a projection stands in them.
fn partitions(platform: &Platform, projection: &str, topic: &str) -> Vec<Partition> {
    let status = platform.status().unwrap();
    status[projection].partitions.iter().filter(|partition| partition.topic == topic).cloned().collect()
}

/// Waits until all of these partitions are paused, in the status and in the log, for a reason that
/// says all of this.
#[track_caller]
fn until_paused(platform: &Platform, host: &Host, projection: &str, topic: &str, said: &[&str]) {
    until_all_paused(platform, host, (projection, topic, PARTITIONS), said);
}

#[track_caller]
fn until_all_paused(
    platform: &Platform,
    host: &Host,
    (projection, topic, partitions_of_topic): (&str, &str, i32),
    said: &[&str],
) {
    for number in 0..partitions_of_topic {
        host.log().wait_for(&format!("that {topic} /{number} is paused"), |line| {
            line.message().starts_with("partition paused")
                && line.field("projection") == projection
                && line.field("partition") == format!("{topic}/{number}")
                && said.iter().all(|word| line.field("reason").contains(word))
        });
    }
    eventually(&format!("{topic} is shown as paused"), || {
        let found = partitions(platform, projection, topic);
        let as_said = |partition: &Partition| partition.paused.as_ref().is_some_and(|why| why.says(said));
        match found.iter().all(as_said) && found.len() as i32 == partitions_of_topic {
            true => Ok(()),
            false => Err(found),
        }
    });
}

/// Waits until a projection is through with every topic but this one.
#[track_caller]
fn until_others_are_fresh(platform: &Platform, projection: &str, topic: &str) {
    eventually(&format!("{projection} goes on beside {topic}"), || {
        let status = platform.status()?;
        let behind = status[projection].partitions.iter().find(|other| other.topic != topic && other.lag > 0);
        behind.map_or(Ok(()), |behind| Err(format!("{behind:?}")))
    });
}

/// The country changes are deleted and begin anew, under their old name, with so many events in
/// each partition for every one that was read there.
fn recreate(platform: &Platform, read: &[Partition], of_each: f64) {
    let topic = platform.topic(CUSTOMER_COUNTRY_CHANGED);
    replace_topic(platform, &topic, PARTITIONS);
    let mut strange = Vec::new();
    for partition in read {
        let events = (partition.checkpoint.expect("it was read") as f64 * of_each) as i64;
        for number in 0..events {
            let payload = format!(
                r#"{{"eventId": "strange-{number}", "occurredAt": "2025-10-01T00:00:00Z",
                    "customerId": "c-{number:06}", "country": "nowhere"}}"#
            );
            let mut record = Record::new(&topic, format!("c-{number:06}"), payload);
            record.partition = Some(partition.partition);
            strange.push(record);
        }
    }
    assert!(!strange.is_empty());
    platform.publish(&strange);
}

/// Rows without what the paused topic would say of them.
fn without_countries(rows: &Rows) -> Rows {
    let mut rows = rows.clone();
    for row in rows.values_mut() {
        row.remove("customer_country");
    }
    rows
}

/// Fault 7: a topic is created anew under a running host, or while none runs.
fn a_topic_created_anew_is_paused(name: &str, of_each: f64, under_a_running_host: bool) {
    let platform = Platform::new(name, &[ORDER_SEARCH, SALES_BY_COUNTRY], ReadModel::postgres())
        // As in production: the group is not to notice by chance.
        .set(&["kafka", "properties", "topic.metadata.refresh.interval.ms"], "30000");
    platform.create_topics(PARTITIONS);
    let topic = platform.topic(CUSTOMER_COUNTRY_CHANGED);
    let records = history(&platform, seed(351), 3_000);
    let (before, after) = records.split_at(2_000);
    platform.publish(before);
    let host = platform.start_host("first");
    platform.assert_orders_are_right();
    let read = partitions(&platform, ORDER_SEARCH, &topic);
    let customers = platform.read_model().customers();

    let host = if under_a_running_host {
        // Were it to look now, a log that is still short would give the change away.
        host.signal(Signal::STOP);
        recreate(&platform, &read, of_each);
        host.cont();
        host
    } else {
        host.sigterm();
        recreate(&platform, &read, of_each);
        platform.start_host("second")
    };
    until_paused(&platform, &host, ORDER_SEARCH, &topic, &["the topic was recreated", "its id was"]);

    let elsewhere: Vec<Record> = after.iter().filter(|record| record.topic != topic).cloned().collect();
    platform.publish(&elsewhere);
    until_others_are_fresh(&platform, ORDER_SEARCH, &topic);
    let status = platform.status().unwrap();
    assert!(status[SALES_BY_COUNTRY].fresh, "the other projection stands still as well");
    assert!(!status[ORDER_SEARCH].fresh && status[ORDER_SEARCH].halted.is_none());
    let expected = fold(&platform);
    assert_same("sales_by_country", &expected.sales, &platform.read_model().sales());
    let orders = platform.read_model().orders();
    assert_same("order_search", &without_countries(&expected.orders), &without_countries(&orders));
    assert_untouched(&platform, &topic, &read, &customers);
    host.sigterm();
}

/// Nothing of the other log was read: neither counters nor rows know of it.
#[track_caller]
fn assert_untouched(platform: &Platform, topic: &str, read: &[Partition], customers: &Rows) {
    for (now, before) in partitions(platform, ORDER_SEARCH, topic).iter().zip(read) {
        assert_eq!((now.checkpoint, now.counters), (before.checkpoint, before.counters), "{now:?}");
    }
    let now = platform.read_model().customers();
    for (id, before) in customers {
        assert_eq!(now[id]["country"], before["country"], "{id}");
    }
    let nowhere = |rows: &Rows, column: &str| rows.values().filter(|row| row[column] == "nowhere").count();
    assert_eq!(nowhere(&now, "country") + nowhere(&platform.read_model().orders(), "customer_country"), 0);
}

#[test]
fn a_topic_created_anew_with_fewer_records_is_paused() {
    a_topic_created_anew_is_paused("recreated-fewer", 0.5, false);
}

#[test]
fn a_topic_created_anew_with_more_records_is_paused() {
    a_topic_created_anew_is_paused("recreated-more", 2.0, false);
}

#[test]
fn a_topic_created_anew_with_fewer_records_under_a_running_host_is_paused() {
    a_topic_created_anew_is_paused("recreated-fewer-live", 0.5, true);
}

#[test]
fn a_topic_created_anew_with_more_records_under_a_running_host_is_paused() {
    a_topic_created_anew_is_paused("recreated-more-live", 2.0, true);
}

/// Fault 7: a partition that the topic did not have before is of the other log as well.
fn a_topic_created_anew_with_more_partitions_is_not_read(name: &str, under_a_running_host: bool) {
    let platform = Platform::new(name, &[ORDER_SEARCH], ReadModel::postgres());
    platform.create_topics(PARTITIONS);
    let topic = platform.topic(CUSTOMER_COUNTRY_CHANGED);
    platform.publish(&history(&platform, seed(356), 2_000));
    let host = platform.start_host("first");
    platform.assert_orders_are_right();
    let read = partitions(&platform, ORDER_SEARCH, &topic);
    let customers = platform.read_model().customers();
    let recreate = || {
        replace_topic(&platform, &topic, PARTITIONS + 1);
        let strange = (0..=PARTITIONS).map(|partition| {
            let payload = r#"{"eventId": "strange", "occurredAt": "2025-10-01T00:00:00Z",
                "customerId": "c-000001", "country": "nowhere"}"#;
            let mut record = Record::new(&topic, "c-000001", payload);
            record.partition = Some(partition);
            record
        });
        platform.publish(&strange.collect::<Vec<_>>());
    };
    let host = if under_a_running_host {
        recreate();
        host
    } else {
        host.sigterm();
        recreate();
        platform.start_host("second")
    };
    let of_topic = (ORDER_SEARCH, &*topic, PARTITIONS + 1);
    until_all_paused(&platform, &host, of_topic, &["the topic was recreated", "its id was"]);
    until_others_are_fresh(&platform, ORDER_SEARCH, &topic);
    assert_untouched(&platform, &topic, &read, &customers);
    let added = partitions(&platform, ORDER_SEARCH, &topic).pop().unwrap();
    assert_eq!((added.partition, added.counters.read), (PARTITIONS, 0), "{added:?}");

    // The way on is the same as for the others.
    platform.ask(&["rebuild", ORDER_SEARCH, "--allow-gap", "--reason", "the topic was recreated"]);
    eventually("the rows are built anew", || match platform.status()?[ORDER_SEARCH].beside.first() {
        Some(beside) if beside.fresh => Ok(()),
        beside => Err(format!("{beside:?}")),
    });
    host.sigterm();
}

#[test]
fn a_topic_created_anew_with_more_partitions_is_read_in_none_of_them() {
    a_topic_created_anew_with_more_partitions_is_not_read("recreated-wider", false);
}

#[test]
fn a_topic_created_anew_with_more_partitions_under_a_running_host_is_read_in_none_of_them() {
    a_topic_created_anew_with_more_partitions_is_not_read("recreated-wider-live", true);
}

/// Fault 7: another cluster answers at the brokers' address, with topics of the same names.
/// The way on: all rows anew from the log as it is, and whoever knows better shows them.
#[test]
fn rows_are_built_anew_from_a_topic_that_was_created_anew() {
    let platform = Platform::new("anew-from-anew", &[ORDER_SEARCH], ReadModel::postgres());
    platform.create_topics(PARTITIONS);
    let topic = platform.topic(CUSTOMER_COUNTRY_CHANGED);
    platform.publish(&history(&platform, seed(352), 2_000));
    let host = platform.start_host("first");
    platform.until_fresh();
    let read = partitions(&platform, ORDER_SEARCH, &topic);
    host.sigterm();
    recreate(&platform, &read, 0.5);
    let host = platform.start_host("second");
    until_paused(&platform, &host, ORDER_SEARCH, &topic, &["the topic was recreated"]);
    let (code, _, said) = platform.command(&["rebuild", ORDER_SEARCH]);
    assert!(code == 1 && said.contains("allow-"), "{code}: {said}");
    platform.ask(&["rebuild", ORDER_SEARCH, "--allow-gap", "--reason", "the topic was recreated"]);
    eventually("the rows are built anew", || match platform.status()?[ORDER_SEARCH].beside.first() {
        Some(beside) if beside.fresh => Ok(()),
        beside => Err(format!("{beside:?}")),
    });
    let promote = ["promote", ORDER_SEARCH, "--force", "--reason", "the topic was recreated"];
    let (code, _, said) = platform.command(&promote);
    assert!(code == 1 && said.contains("allow-"), "{code}: {said}");
    platform.ask(&[&promote[..], &["--allow-gap"]].concat());
    platform.assert_orders_are_right();
    host.sigterm();
}

#[test]
fn another_cluster_behind_the_same_address_is_paused() {
    let mut kafka = Kafka::start().unwrap();
    let platform = Platform::on(&kafka.bootstrap(), "replaced", &[SALES_BY_COUNTRY], ReadModel::postgres());
    platform.create_topics(PARTITIONS);
    let topic = platform.topic(ORDER_CONFIRMED);
    platform.publish(&history(&platform, seed(352), 1_000));
    let host = platform.start_host("first");
    platform.assert_sales_are_right();
    let read = partitions(&platform, SALES_BY_COUNTRY, &topic);
    let sales = platform.read_model().sales();

    kafka.replace().unwrap();
    platform.create_topics(PARTITIONS);
    platform.publish(&history(&platform, seed(353), 3_000));
    until_paused(&platform, &host, SALES_BY_COUNTRY, &topic, &["its id was"]);
    host.sigterm();
    let host = platform.start_host("second");
    until_paused(
        &platform,
        &host,
        SALES_BY_COUNTRY,
        &topic,
        &["the brokers belong to another cluster", "its id was"],
    );

    for (now, before) in partitions(&platform, SALES_BY_COUNTRY, &topic).iter().zip(&read) {
        assert_eq!((now.checkpoint, now.counters), (before.checkpoint, before.counters), "{now:?}");
        assert!(now.log_end > before.log_end, "the other log is longer, so that only its identity tells");
    }
    assert_same("sales_by_country", &sales, &platform.read_model().sales());
    host.sigterm();
}

/// Fault 6: events are removed before they are read; an operator passes over them.
#[test]
fn a_partition_whose_unread_events_were_removed_is_paused_and_the_loss_named() {
    let platform = Platform::new("retention", &[SALES_BY_COUNTRY], ReadModel::postgres());
    platform.create_topics(PARTITIONS);
    let topic = platform.topic(ORDER_CONFIRMED);
    let records = history(&platform, seed(354), 2_000);
    let (before, after) = records.split_at(1_000);
    platform.publish(before);
    let host = platform.start_host("first");
    platform.until_fresh();
    host.sigterm();
    let read = partitions(&platform, SALES_BY_COUNTRY, &topic);
    platform.publish(after);
    let checkpoint = read[0].checkpoint.unwrap();
    delete_records(&platform, &topic, 0, checkpoint + 50);

    let host = platform.start_host("second");
    let lost = format!("offsets {checkpoint} to {} were removed", checkpoint + 49);
    host.log().wait_for("that a partition is paused", |line| {
        line.message().starts_with("partition paused") && line.field("reason").starts_with(&lost)
    });
    eventually("the other partition flows", || {
        let now = partitions(&platform, SALES_BY_COUNTRY, &topic);
        let as_it_should =
            now[1].lag == 0 && now[0].paused.as_ref().is_some_and(|why| why.reason.starts_with(&lost));
        if as_it_should { Ok(()) } else { Err(now) }
    });
    let now = partitions(&platform, SALES_BY_COUNTRY, &topic);
    assert_eq!((now[0].checkpoint, now[0].counters), (read[0].checkpoint, read[0].counters));
    assert!(now[0].lag > 0 && now[1].paused.is_none(), "{now:?}");
    let whole = fold(&platform).sales_books.read[&(topic.clone(), 1)];
    assert_eq!(now[1].counters.read, whole);

    // Nobody but an operator says that they are gone for good.
    platform.ask(&["resume", SALES_BY_COUNTRY]);
    eventually("it is looked at again, and paused", || {
        let now = partitions(&platform, SALES_BY_COUNTRY, &topic);
        if now[0].paused.is_some() && now[0].counters == read[0].counters { Ok(()) } else { Err(now) }
    });
    let (partition, first) = (format!("{topic}/0"), (checkpoint + 50).to_string());
    platform.ask(&[
        "skip",
        SALES_BY_COUNTRY,
        "--partition",
        &partition,
        "--to",
        &first,
        "--reason",
        "retention",
    ]);
    platform.ask(&["resume", SALES_BY_COUNTRY]);
    platform.until_fresh();
    let now = partitions(&platform, SALES_BY_COUNTRY, &topic);
    assert_eq!(now[0].counters.skipped, 50);
    host.sigterm();
}

/// As fast as can be: whoever reads the topic may well miss that it was away.
fn replace_topic(platform: &Platform, topic: &str, partitions: i32) {
    let created = NewTopic::new(topic, partitions, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    let (admin, options) = (admin(platform), options());
    block_on(async {
        admin.delete_topics(&[topic], &options).await.unwrap()[0].as_ref().unwrap();
        admin.create_topics([&created], &options).await.unwrap()[0].as_ref().unwrap();
    });
}

fn admin(platform: &Platform) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", platform.brokers()).create().unwrap()
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// Removes what lies before an offset.
pub(super) fn delete_records(platform: &Platform, topic: &str, partition: i32, before: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
    block_on(admin(platform).delete_records(&list, &options())).unwrap();
}

/// Fault 8: a topic grows while it is read. What came before a host knew of the new partitions
/// counts as well.
#[test]
fn partitions_that_are_added_are_read_from_their_beginning() {
    let platform = Platform::new("grown", &[SALES_BY_COUNTRY], ReadModel::postgres());
    platform.create_topics(PARTITIONS);
    let topic = platform.topic(ORDER_CONFIRMED);
    let records = history(&platform, seed(355), 3_000);
    let (before, after) = records.split_at(1_000);
    platform.publish(before);
    let host = platform.start_host("attentive");
    platform.until_fresh();

    topics::grow(platform.brokers(), &topic, 5).unwrap();
    let (at_once, later) = after.split_at(1_000);
    platform.publish(at_once);
    platform.assert_sales_are_right();
    platform.publish(later);
    let expected = platform.assert_sales_are_right();
    let grown = partitions(&platform, SALES_BY_COUNTRY, &topic);
    assert_eq!(grown.len(), 5);
    for partition in &grown {
        let events = expected.sales_books.read[&(topic.clone(), partition.partition)];
        assert!(events > 0 && partition.counters.read == events, "{partition:?}");
    }
    assert_eq!(host.sigterm().tally(SALES_BY_COUNTRY).fenced, 0);
}

/// Fault 6 for a partition that no host has seen yet: its beginning is gone as well.
#[test]
fn a_partition_that_was_added_and_lost_its_beginning_is_paused_and_the_loss_named() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let platform = Platform::new("grown-and-lost", &[SALES_BY_COUNTRY], read_model);
        platform.create_topics(PARTITIONS);
        let topic = platform.topic(ORDER_CONFIRMED);
        let records = history(&platform, seed(357), 1_000);
        let (before, after) = records.split_at(500);
        platform.publish(before);
        let host = platform.start_host("first");
        platform.until_fresh();
        host.sigterm();
        topics::grow(platform.brokers(), &topic, PARTITIONS as usize + 1).unwrap();
        let orders = after.iter().filter(|record| record.topic == topic);
        let to_added = orders.cloned().map(|record| Record { partition: Some(PARTITIONS), ..record });
        platform.publish(&to_added.collect::<Vec<_>>());
        delete_records(&platform, &topic, PARTITIONS, 5);

        let host = platform.start_host("second");
        let lost = "offsets 0 to 4 were removed";
        host.log().wait_for("that the partition is paused", |line| {
            line.message().starts_with("partition paused")
                && line.field("partition") == format!("{topic}/{PARTITIONS}")
                && line.field("reason").starts_with(lost)
        });
        eventually("it is shown as paused", || {
            let now = partitions(&platform, SALES_BY_COUNTRY, &topic);
            let why = now.last().and_then(|added| added.paused.clone());
            if why.is_some_and(|why| why.reason.starts_with(lost)) { Ok(()) } else { Err(now) }
        });
        platform.publish(before);
        eventually("the other partitions flow", || {
            let now = partitions(&platform, SALES_BY_COUNTRY, &topic);
            if now[..2].iter().all(|other| other.lag == 0) { Ok(()) } else { Err(now) }
        });
        let now = partitions(&platform, SALES_BY_COUNTRY, &topic);
        assert_eq!((now[2].checkpoint, now[2].counters.read), (Some(0), 0), "{now:?}");

        let partition = format!("{topic}/{PARTITIONS}");
        let skip =
            ["skip", SALES_BY_COUNTRY, "--partition", &partition, "--to", "5", "--reason", "retention"];
        platform.ask(&skip);
        platform.ask(&["resume", SALES_BY_COUNTRY]);
        platform.until_fresh();
        let now = partitions(&platform, SALES_BY_COUNTRY, &topic);
        assert_eq!(now[2].counters.skipped, 5, "{now:?}");
        host.sigterm();
    }
}
