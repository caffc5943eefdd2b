//! One partition, topic or broker that is not there stops nothing else, and is named.

use std::time::Duration;

use projector_test_servers::Kafka;
use projector_workload::topics::{self, Topic};
use projector_workload::{Publisher, Record};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};

use crate::harness::{Host, Platform, Plugins, ReadModel, assert_closed, eventually, request};

const TOKEN: &str = "token of ann";

/// Lets Ann see what a host tries again.
fn with_admin(platform: Platform) -> Platform {
    platform
        .set(&["admin", "listen"], "127.0.0.1:0")
        .set(&["admin", "tokens", "ann", "token"], TOKEN)
        .set(&["admin", "tokens", "ann", "may"], "read")
}

/// What a host tries again, as `/v1/retrying` tells it.
fn retrying(host: &Host) -> Vec<Value> {
    let line = host.log().until_said("the admin API is listening");
    let (status, document) = request(line.field("address"), Some(TOKEN), "GET /v1/retrying", "");
    assert_eq!(status, 200, "{document}");
    document.as_array().cloned().unwrap_or_default()
}

/// Waits until a host names a cause, and returns what it tells of it.
#[track_caller]
fn until_retrying(host: &Host, words: &[&str]) -> Value {
    eventually(&format!("{words:?} is told as being tried again"), || {
        let all = retrying(host);
        let says =
            |one: &Value| words.iter().all(|word| one["cause"].as_str().unwrap_or_default().contains(word));
        all.iter().find(|one| says(one)).cloned().ok_or(all)
    })
}

fn status(platform: &Platform) -> Value {
    platform.ask(&["status"])["projections"][0].clone()
}

fn write(topic: &str, partition: i32, id: &str) -> Record {
    let payload = json!({"do": "write", "id": id}).to_string();
    Record { partition: Some(partition), ..Record::new(topic, "k", payload) }
}

/// Partition 1 lives on the second broker only, which is stopped when the host starts.
#[test]
fn a_partition_without_a_leader_keeps_no_other_unread() {
    let kafka = Kafka::start().unwrap();
    // So that the groups' own topic lives on the first broker.
    let warm: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "warm")
        .create()
        .unwrap();
    eventually("the groups' topic is there", || {
        let list = warm.fetch_group_list(Some("warm"), Duration::from_secs(5)).map(|_| ());
        let found = warm.fetch_metadata(Some("__consumer_offsets"), Duration::from_secs(5)).unwrap();
        match found.topics()[0].partitions().is_empty() {
            true => Err(format!("{list:?}")),
            false => Ok(()),
        }
    });
    let mut second = kafka.join(2).unwrap();
    let plugins = Plugins::new(&["hostile-guest"]);
    let platform = with_admin(
        Platform::on(&kafka.bootstrap(), "leaderless", &[], ReadModel::postgres())
            .set(&["plugins", "directory"], plugins.path()),
    );
    let topic = platform.topic("hostile.events.v1");
    topics::create(platform.brokers(), &[Topic::on(&*topic, &[1, 2])]).unwrap();
    platform.publish(&[write(&topic, 0, "1"), write(&topic, 1, "2"), write(&topic, 0, "3")]);
    second.stop().unwrap();

    let host = platform.start_host("host");
    host.group("hostile");
    let read = |partition: i32| {
        let checkpoints = platform.read_model().checkpoints("hostile");
        checkpoints.get(&(topic.clone(), partition)).copied().unwrap_or_default()
    };
    eventually("partition 0 is read", || if read(0) == 2 { Ok(()) } else { Err(read(0)) });
    let named = [&*format!("{topic}/1: the partition has no leader; Kafka error LEADER_NOT_AVAILABLE")];
    let told = until_retrying(&host, &named);
    assert_eq!(told["kind"], "brokers");
    host.log().wait_for("the partition without a leader", |line| line.text.contains(named[0]));
    let shown = status(&platform);
    assert_eq!(shown["fresh"], false, "{shown:#}");
    assert_eq!(shown["partitions"][0]["lag"], 0, "{shown:#}");
    let unknown = &shown["partitions"][1];
    assert!(
        unknown["unknown"]["reason"].as_str().is_some_and(|reason| reason.contains(named[0])),
        "{shown:#}"
    );
    assert_eq!(shown["freshness_ms"], Value::Null, "freshness is not known: {shown:#}");
    // It is written and read on beside it.
    platform.publish(&[write(&topic, 0, "4")]);
    eventually("partition 0 is read on", || if read(0) == 3 { Ok(()) } else { Err(read(0)) });

    second.restart().unwrap();
    assert_closed(&platform.until_through("hostile"), 4, 0, 0);
    eventually("nothing is tried again any more", || {
        let all = retrying(&host);
        if all.is_empty() { Ok(()) } else { Err(all) }
    });
    let log = host.sigterm();
    assert!(!log.lines().iter().any(|line| line.message() == "projection starts again"));
}

/// The stores are asked all the same, and no read model is told to be fresh.
#[test]
fn without_brokers_status_shows_what_the_database_knows() {
    let mut kafka = Kafka::start().unwrap();
    let plugins = Plugins::new(&["hostile-guest"]);
    let platform = Platform::on(&kafka.bootstrap(), "brokerless", &[], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path());
    platform.create_topics(1);
    let topic = platform.topic("hostile.events.v1");
    platform.publish(&[write(&topic, 0, "1")]);
    let host = platform.start_host("host");
    platform.until_through("hostile");
    host.sigterm();
    kafka.kill();

    let (code, _, said) = platform.command(&["status"]);
    assert_eq!(code, 3, "{said}");
    for words in ["hostile", "read 1 = applied 1", "freshness unknown", "no broker answers"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    let (code, shown, said) = platform.command(&["status", "--output", "json"]);
    assert_eq!(code, 3, "{said}");
    let shown: Value = if shown.is_null() { serde_json::from_str(json_of(&said)).unwrap() } else { shown };
    let hostile = &shown["projections"][0];
    assert_eq!((&hostile["fresh"], &hostile["counters"]["read"]), (&json!(false), &json!(1)), "{shown:#}");
    assert_eq!(hostile["partitions"][0]["checkpoint"], 1, "{shown:#}");
    assert_eq!(shown["brokers"]["kind"], "brokers", "{shown:#}");
}

/// The document in what a command printed, before what it complained of.
fn json_of(said: &str) -> &str {
    said.rfind("\n}").map_or(said, |end| &said[..end + 2])
}

/// A typo: topic, plugin's name for it and the most similar existing name are told; the other topics are
/// read; once the topic exists, it is read without a restart.
#[test]
fn a_topic_that_does_not_exist_is_named_with_the_most_similar_one() {
    let platform = with_admin(Platform::new("typo", &["order-search"], ReadModel::postgres()));
    let records: Vec<Record> = platform.workload(4, 200).records().collect();
    let [confirmed, country, profile] = [
        projector_workload::ORDER_CONFIRMED,
        projector_workload::CUSTOMER_COUNTRY_CHANGED,
        projector_workload::CUSTOMER_PROFILE_UPDATED,
    ]
    .map(|logical| platform.topic(logical));
    topics::create(platform.brokers(), &[Topic::new(&*confirmed, 1), Topic::new(&*country, 1)]).unwrap();
    let similar = format!("{profile}-archive");
    topics::create(platform.brokers(), &[Topic::new(&*similar, 1)]).unwrap();
    let of =
        |wanted: &str| records.iter().filter(|record| record.topic == wanted).cloned().collect::<Vec<_>>();
    platform.publish(&[of(&confirmed), of(&country)].concat());

    let host = platform.start_host("host");
    host.group("order-search");
    let words = [&*profile, projector_workload::CUSTOMER_PROFILE_UPDATED, "does not exist", &*similar];
    let told = until_retrying(&host, &words);
    assert_eq!((&told["kind"], &told["projection"]), (&json!("no-topic"), &json!("order-search")));
    host.log().wait_for("the missing topic", |line| words.iter().all(|word| line.text.contains(word)));
    let read = || platform.read_model().checkpoints("order-search").values().sum::<i64>() as usize;
    let others = of(&confirmed).len() + of(&country).len();
    eventually("the topics that exist are read", || if read() == others { Ok(()) } else { Err(read()) });
    let shown = status(&platform);
    assert_eq!((&shown["fresh"], &shown["missing_topics"]), (&json!(false), &json!([profile])), "{shown:#}");
    let why = shown["unknown_topics"][0]["why"]["reason"].as_str().unwrap_or_default();
    assert!(why.contains(&similar), "{shown:#}");

    topics::create(platform.brokers(), &[Topic::new(&*profile, 1)]).unwrap();
    Publisher::new(platform.brokers()).publish(&of(&profile)).unwrap();
    platform.until_fresh();
    platform.assert_orders_are_right();
    eventually("nothing is tried again any more", || {
        let all = retrying(&host);
        if all.is_empty() { Ok(()) } else { Err(all) }
    });
    let log = host.sigterm();
    assert!(!log.lines().iter().any(|line| line.message() == "projection starts again"));
}

/// A topic that was read is deleted under a running host: the others are read on, also by a host that starts
/// then; what is told is not to create it anew and be done. A topic that is created anew is another log.
#[test]
fn a_topic_that_is_deleted_stops_no_other_topic() {
    let platform = with_admin(Platform::new("deleted", &["order-search"], ReadModel::postgres()));
    platform.create_topics(1);
    let records: Vec<Record> = platform.workload(6, 900).records().collect();
    let profile = platform.topic(projector_workload::CUSTOMER_PROFILE_UPDATED);
    let mut parts = records.chunks(300);
    let mut next_part = || parts.next().expect("there are three");
    platform.publish(next_part());
    let host = platform.start_host("first");
    platform.until_fresh();
    let others = |part: &[Record]| -> Vec<Record> {
        part.iter().filter(|record| record.topic != profile).cloned().collect()
    };
    let until_others_are_read = || {
        eventually("the other topics are read", || {
            let status = platform.status()?.remove("order-search").ok_or("it is not installed")?;
            let others: Vec<_> = status.partitions.iter().filter(|of| of.topic != profile).collect();
            match others.len() == 2 && others.iter().all(|of| of.lag == 0 && of.checkpoint.is_some()) {
                true => Ok(others.iter().map(|of| of.counters.read).sum::<u64>()),
                false => Err(format!("{others:?}")),
            }
        })
    };
    let read = until_others_are_read();

    topics::delete(platform.brokers(), &[&profile]).unwrap();
    let told = until_retrying(&host, &[&profile, "the topic was read before, and does not exist any more"]);
    assert_eq!(told["kind"], "topic-deleted", "{told:#}");
    let advice = told["advice"].as_str().unwrap_or_default();
    assert!(advice.contains("projector rebuild") && !advice.contains("without a restart"), "{advice}");
    let part = others(next_part());
    platform.publish(&part);
    let read_on = until_others_are_read();
    assert_eq!(read_on, read + part.len() as u64);
    let shown = status(&platform);
    assert_eq!((&shown["fresh"], &shown["missing_topics"]), (&json!(false), &json!([profile])), "{shown:#}");
    assert_eq!(shown["unknown_topics"][0]["why"]["kind"], "topic-deleted", "{shown:#}");
    assert_eq!(shown["halted"], Value::Null, "{shown:#}");
    let log = host.sigterm();
    assert!(!log.lines().iter().any(|line| line.message() == "projection starts again"));

    let host = platform.start_host("second");
    let part = others(next_part());
    platform.publish(&part);
    assert_eq!(until_others_are_read(), read_on + part.len() as u64);
    until_retrying(&host, &[&profile, "the topic was read before, and does not exist any more"]);

    topics::create(platform.brokers(), &[Topic::new(&*profile, 1)]).unwrap();
    host.log().wait_for("that the new topic is paused", |line| {
        line.message().starts_with("partition paused")
            && line.field("partition") == format!("{profile}/0")
            && line.field("reason").contains("the topic was recreated")
    });
    platform.publish(&part);
    assert_eq!(until_others_are_read(), read_on + 2 * part.len() as u64);
    eventually("nothing is tried again any more", || {
        let all = retrying(&host);
        if all.is_empty() { Ok(()) } else { Err(all) }
    });
    host.sigterm();
}

/// A panic of one projection's tasks, again and again, is shown, and is nobody else's.
#[test]
fn a_projection_whose_tasks_panic_is_shown_and_stops_no_other() {
    let platform =
        with_admin(Platform::new("panics", &["order-search", "sales-by-country"], ReadModel::postgres()));
    platform.create_topics(1);
    platform.publish(&platform.workload(5, 300).records().collect::<Vec<_>>());
    for (failpoint, who) in [("poll", "the poll thread"), ("before-write", "a task"), ("supervise", "task")] {
        let host = platform.start_host_with(failpoint, &format!("order-search:{failpoint}=panic@1..1000000"));
        let told = until_retrying(&host, &["panicked", &format!("failpoint {failpoint}"), who]);
        assert_eq!((&told["kind"], &told["projection"]), (&json!("crash"), &json!("order-search")));
        eventually("the panic is told to be what it stands still for", || {
            let status = platform.status()?;
            let halted = status.get("order-search").and_then(|projection| projection.halted.clone());
            halted.filter(|halted| halted.kind == "crash").map(drop).ok_or("it is not".to_owned())
        });
        platform.until_through("sales-by-country");
        let attempts =
            |host: &Host| until_retrying(host, &["panicked"])["attempts"].as_u64().unwrap_or_default();
        eventually("it is tried again", || {
            let seen = attempts(&host);
            if seen >= 3 { Ok(()) } else { Err(seen) }
        });
        let lines = host.log().lines();
        let said = lines
            .iter()
            .filter(|line| line.message().starts_with("retrying") && line.text.contains("panicked"));
        assert_eq!(said.count(), 1, "one cause is one line");
        host.sigterm();
    }
    // Twice, and then no more: it goes on without a restart of the host.
    let points =
        ["supervise", "before-write", "poll"].map(|point| format!("order-search:{point}=panic@1..2"));
    let host = platform.start_host_with("mended", &points.join(";"));
    eventually("all is read", || {
        let status = platform.status()?;
        let orders = status.get("order-search").ok_or("it is not installed")?;
        match (&orders.halted, orders.fresh) {
            (None, true) => Ok(()),
            (halted, fresh) => Err(format!("{halted:?}, fresh: {fresh}")),
        }
    });
    platform.assert_orders_are_right();
    host.sigterm();
}
