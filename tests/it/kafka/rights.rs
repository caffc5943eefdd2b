//! A right that is missing is named, with the command that grants it; only what needs it stands still, and
//! goes on without a restart once it is granted.

use projector_test_servers::{Listener, Resource, Right, SecuredKafka};
use projector_workload::Record;
use serde_json::{Value, json};

use crate::harness::{Host, ORDER_SEARCH, Platform, ReadModel, SALES_BY_COUNTRY, eventually, request};

const TOKEN: &str = "token of ann";

/// Hosts that log in with a client certificate, whose user has no right yet.
fn platform(name: &str, plugins: &[&'static str]) -> (Platform, String) {
    let kafka = SecuredKafka::shared();
    let user = format!("user-of-{name}");
    let certificate = kafka.authority().client(&user).unwrap();
    let platform = Platform::on(&kafka.bootstrap(Listener::Plain), name, plugins, ReadModel::postgres());
    platform.create_topics(1);
    let platform = platform
        .set(&["kafka", "brokers"], kafka.bootstrap(Listener::MutualTls))
        .set(&["kafka", "tls", "ca"], kafka.ca().display().to_string())
        .set(&["kafka", "tls", "certificate"], certificate.certificate.display().to_string())
        .set(&["kafka", "tls", "key"], certificate.key.display().to_string())
        .set(&["admin", "listen"], "127.0.0.1:0")
        .set(&["admin", "tokens", "ann", "token"], TOKEN)
        .set(&["admin", "tokens", "ann", "may"], "read");
    (platform, user)
}

/// Waits until a host names what it tries again.
#[track_caller]
fn until_retrying(host: &Host, words: &[&str]) -> Value {
    let line = host.log().until_said("the admin API is listening");
    eventually(&format!("{words:?} is told as being tried again"), || {
        let (status, all) = request(line.field("address"), Some(TOKEN), "GET /v1/retrying", "");
        assert_eq!(status, 200, "{all}");
        let says =
            |one: &Value| words.iter().all(|word| one["cause"].as_str().unwrap_or_default().contains(word));
        all.as_array().into_iter().flatten().find(|one| says(one)).cloned().ok_or(all)
    })
}

fn status(platform: &Platform, projection: &str) -> Value {
    let status = platform.ask(&["status"]);
    let all = status["projections"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["name"] == projection).unwrap_or_default()
}

fn grant(user: &str, right: Right, resource: Resource<'_>) {
    SecuredKafka::shared().grant(user, right, resource).unwrap();
}

/// First the topic cannot be seen, then it can be seen and not be read, then it is read.
#[test]
fn a_missing_right_on_a_topic_is_named_and_stops_only_what_reads_it() {
    let (platform, user) = platform("topic-right", &[ORDER_SEARCH, SALES_BY_COUNTRY]);
    let topics = [
        projector_workload::ORDER_CONFIRMED,
        projector_workload::CUSTOMER_COUNTRY_CHANGED,
        projector_workload::CUSTOMER_PROFILE_UPDATED,
    ]
    .map(|logical| platform.topic(logical));
    // Only order-search reads it.
    let profile = topics[2].clone();
    grant(&user, Right::Read, Resource::Topic(&topics[0]));
    grant(&user, Right::Read, Resource::Topic(&topics[1]));
    grant(&user, Right::Read, Resource::GroupsFrom("projector."));
    platform.publish(&platform.workload(11, 200).records().collect::<Vec<Record>>());
    let host = platform.start_host("host");
    let command = format!(
        "kafka-acls --bootstrap-server {} --add --allow-principal User:… --operation Read --topic {profile}",
        SecuredKafka::shared().bootstrap(Listener::MutualTls)
    );
    let words = [&*format!("topic {profile}"), "this host's principal has no right to Describe it", &command];
    let told = until_retrying(&host, &words);
    assert_eq!((&told["kind"], &told["projection"]), (&json!("denied"), &json!(ORDER_SEARCH)));
    host.log().wait_for("the missing right", |line| words.iter().all(|word| line.text.contains(word)));
    platform.until_through(SALES_BY_COUNTRY);
    let read = |topic: &str| {
        let checkpoints = platform.read_model().checkpoints(ORDER_SEARCH);
        checkpoints.get(&(topic.to_owned(), 0)).copied().unwrap_or_default()
    };
    eventually("what may be read is read", || if read(&topics[0]) > 0 { Ok(()) } else { Err(()) });
    let shown = status(&platform, ORDER_SEARCH);
    assert_eq!((&shown["fresh"], &shown["missing_topics"]), (&json!(false), &json!([])), "{shown:#}");
    assert_eq!(shown["unknown_topics"][0]["why"]["kind"], "denied", "{shown:#}");
    assert_eq!(status(&platform, SALES_BY_COUNTRY)["fresh"], true);

    grant(&user, Right::Describe, Resource::Topic(&profile));
    let told = until_retrying(&host, &[&format!("{profile}/0"), "has no right to Read it", &command]);
    assert_eq!(told["kind"], "denied");
    eventually("status tells that the partition cannot be read", || {
        let shown = status(&platform, ORDER_SEARCH);
        let paused =
            shown["partitions"].as_array().into_iter().flatten().find(|one| one["topic"] == *profile);
        let kind = paused.map(|one| one["paused"]["kind"].clone());
        if kind == Some(json!("denied")) { Ok(()) } else { Err(shown) }
    });

    grant(&user, Right::Read, Resource::Topic(&profile));
    platform.until_fresh();
    platform.assert_orders_are_right();
    let log = host.sigterm();
    assert!(!log.lines().iter().any(|line| line.message() == "projection starts again"));
}

#[test]
fn a_missing_right_on_the_group_is_named_and_the_projection_goes_on_when_it_is_granted() {
    let (platform, user) = platform("group-right", &[SALES_BY_COUNTRY]);
    grant(&user, Right::Read, Resource::TopicsFrom(&platform.topic("")));
    platform.publish(&platform.workload(12, 100).records().collect::<Vec<Record>>());
    let host = platform.start_host("host");
    let group = host.group(SALES_BY_COUNTRY);
    let words = [
        &*format!("group {group}: this host's principal has no right to Read it"),
        "GROUP_AUTHORIZATION_FAILED",
        &format!("--operation Read --group {group}"),
    ];
    let told = until_retrying(&host, &words);
    assert_eq!((&told["kind"], &told["projection"]), (&json!("denied"), &json!(SALES_BY_COUNTRY)));
    eventually("status tells what it stands still for", || {
        let shown = status(&platform, SALES_BY_COUNTRY);
        if shown["halted"]["kind"] == "denied" { Ok(()) } else { Err(shown) }
    });
    grant(&user, Right::Read, Resource::Group(&group));
    eventually("it goes on", || {
        let shown = status(&platform, SALES_BY_COUNTRY);
        if shown["fresh"] == true && shown["halted"].is_null() { Ok(()) } else { Err(shown) }
    });
    platform.assert_sales_are_right();
    let log = host.sigterm();
    assert!(!log.lines().iter().any(|line| line.message() == "projection starts again"));
}

/// The host needs no right on the cluster: its id comes with every answer.
#[test]
fn no_right_on_the_cluster_is_needed() {
    let (platform, user) = platform("cluster-right", &[SALES_BY_COUNTRY]);
    grant(&user, Right::Read, Resource::TopicsFrom(&platform.topic("")));
    grant(&user, Right::Read, Resource::GroupsFrom("projector."));
    platform.publish(&platform.workload(13, 100).records().collect::<Vec<Record>>());
    let host = platform.start_host("host");
    let line = host.log().until_said("connected to Kafka");
    assert!(line.field("cluster").len() > 10, "{line:?}");
    platform.until_fresh();
    platform.assert_sales_are_right();
    host.sigterm();
}
