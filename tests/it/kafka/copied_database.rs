//! A copy of a database beside its original, on one Kafka cluster: hosts of the copy join none of the original's
//! consumer groups, and `projector adopt` gives the copy groups of its own.

use std::fs;
use std::path::PathBuf;

use projector_test_servers::Postgres;
use projector_workload::Record;
use serde_json::Value;

use super::generations::eventually_done;
use crate::harness::{
    Host, Platform, ReadModel, SALES_BY_COUNTRY, assert_same, eventually, seed, until_nothing_is_retried,
    until_told, with_admin,
};

/// A platform on the database of this URL from now on.
fn on(platform: Platform, url: &str) -> Platform {
    platform.set(&["store", "url"], url)
}

fn url(read_model: &ReadModel) -> String {
    match read_model {
        ReadModel::Postgres { url } => url.clone(),
        ReadModel::Sqlite { .. } => unreachable!("it is on Postgres"),
    }
}

fn history(platform: &Platform, seed: u64) -> Vec<Record> {
    platform.workload(seed, 600).records().collect()
}

/// What a host of a copy has not done.
#[track_caller]
fn assert_joined_nothing(host: &Host) {
    let runs = host.log().lines().into_iter().find(|line| line.message() == "projection runs");
    assert!(runs.is_none(), "a host of the copy joined {:?}", runs.map(|line| line.text));
}

/// What the plan says against a choice.
fn problems<'a>(plan: &'a Value, choice: &str) -> &'a Vec<Value> {
    plan[choice]["problems"].as_array().expect("the plan has both choices")
}

/// `copy`: makes a copy of a database, by its URL.
fn is_told_from_its_original(name: &str, copy: impl Fn(&str) -> String) {
    let read_model = ReadModel::postgres();
    let original = url(&read_model);
    let platform = with_admin(Platform::new(name, &[SALES_BY_COUNTRY], read_model));
    platform.create_topics(4);
    let records = history(&platform, seed(460));
    let (before, after) = records.split_at(300);
    platform.publish(before);
    let production = platform.start_host("production");
    let group = production.group(SALES_BY_COUNTRY);
    platform.assert_sales_are_right();
    production.sigterm();
    let copied = copy(&original);

    let production = platform.start_host("production");
    platform.until_shared_by(&group, 1);
    let platform = on(platform, &copied);
    let staging = platform.start_host("staging");
    let told = until_told(&staging, "copied", "is not the one");
    assert!(told["advice"].as_str().unwrap_or_default().contains("projector adopt"), "{told}");
    let (code, _, said) = platform.command(&["status"]);
    assert!(code == 0 && said.contains("A COPY: ") && said.contains("projector adopt"), "{said}");
    let platform = on(platform, &original);
    platform.publish(after);
    platform.assert_sales_are_right();
    let (_, _, said) = platform.command(&["status"]);
    assert!(!said.contains("A COPY: "), "{said}");
    platform.until_shared_by(&group, 1);
    assert_joined_nothing(&staging);

    let platform = on(platform, &copied);
    let plan = platform.ask(&["adopt"]);
    assert_eq!(plan["groups"][0]["group"], *group, "{plan}");
    assert_eq!(plan["groups"][0]["members"].as_array().map(Vec::len), Some(1), "{plan}");
    assert!(problems(&plan, "new_groups").is_empty(), "{plan}");
    assert!(problems(&plan, "keep_groups")[0].as_str().unwrap().contains("members"), "{plan}");
    assert_eq!(plan["done"], Value::Null, "{plan}");
    assert_joined_nothing(&staging);
    let (code, _, said) = platform.command(&["adopt", "--keep-groups", "--reason", "a move"]);
    assert!(code == 1 && said.contains(&*group), "{code}: {said}");
    assert_joined_nothing(&staging);

    let done = eventually_done(&platform, &["adopt", "--new-groups", "--reason", "this is staging"]);
    assert!(done["done"]["id"].is_string(), "{done}");
    assert_ne!(staging.group(SALES_BY_COUNTRY), group);
    platform.until_fresh();
    let copy = ReadModel::Postgres { url: copied };
    assert_same("the copy has what its original has", &platform.read_model().sales(), &copy.sales());
    until_nothing_is_retried(&staging);
    platform.until_shared_by(&group, 1);
    staging.sigterm();
    production.sigterm();
}

#[test]
fn a_template_copy_is_told_from_its_original() {
    is_told_from_its_original("template-copy", |original| {
        let name = original.rsplit('/').next().expect("a URL has a database");
        let copy = format!("{name}_copy");
        Postgres::shared().execute(&format!("create database \"{copy}\" template \"{name}\"")).unwrap();
        original.replace(name, &copy)
    });
}

#[test]
fn a_restored_dump_is_told_from_its_original() {
    is_told_from_its_original("restored-dump", |original| {
        Postgres::shared().dump_and_restore(original).unwrap()
    });
}

/// The original is gone for good, so its groups are for the database that it was moved to.
#[test]
fn a_database_that_was_moved_keeps_its_groups_once_they_are_empty() {
    let read_model = ReadModel::postgres();
    let original = url(&read_model);
    let platform = with_admin(Platform::new("moved", &[SALES_BY_COUNTRY], read_model));
    platform.create_topics(2);
    let records = history(&platform, seed(461));
    let (before, after) = records.split_at(300);
    platform.publish(before);
    let production = platform.start_host("production");
    let group = production.group(SALES_BY_COUNTRY);
    platform.assert_sales_are_right();
    let moved = Postgres::shared().dump_and_restore(&original).unwrap();
    let platform = on(platform, &moved);
    let (code, _, said) = platform.command(&["adopt", "--keep-groups", "--reason", "a new server"]);
    assert!(code == 1 && said.contains("members"), "{code}: {said}");
    production.sigterm();

    let host = platform.start_host("host");
    until_told(&host, "copied", "is not the one");
    assert_joined_nothing(&host);
    // The copy has the row of the host that was there a moment ago.
    eventually_done(&platform, &["adopt", "--keep-groups", "--reason", "a new server"]);
    assert_eq!(host.group(SALES_BY_COUNTRY), group);
    platform.publish(after);
    platform.until_fresh();
    host.sigterm();
    // Another start finds nothing to tell.
    let host = platform.start_host("again");
    assert_eq!(host.group(SALES_BY_COUNTRY), group);
    host.sigterm();
}

/// The data directory of a server that runs: system identifier and oid are the original's, so only the members of
/// the groups tell.
#[test]
fn a_physical_copy_joins_no_group_in_which_the_original_has_members() {
    let server = Postgres::start_with(&[("fsync", "off")]).unwrap();
    let read_model = ReadModel::on(&server);
    let original = url(&read_model);
    let platform = with_admin(Platform::new("physical-copy", &[SALES_BY_COUNTRY], read_model));
    platform.create_topics(4);
    let records = history(&platform, seed(462));
    let (before, after) = records.split_at(300);
    platform.publish(before);
    let production = platform.start_host("production");
    let group = production.group(SALES_BY_COUNTRY);
    platform.assert_sales_are_right();
    let copy = server.base_backup().unwrap();
    let copied = original.replace(&format!(":{}/", server.port()), &format!(":{}/", copy.port()));
    assert_ne!(copied, original);
    // The copy has the row of the host that was there a moment ago, and its member.
    let live = "select count(*)::text from projector.host where seen_at > now() - interval '5 seconds'";
    eventually("no host is in the copy", || {
        let found = ReadModel::Postgres { url: copied.clone() }.query(live)[0][0].clone();
        if found.as_deref() == Some("0") { Ok(()) } else { Err(found) }
    });

    let platform = on(platform, &copied);
    let staging = platform.start_host("staging");
    staging.log().until_said("the consumer group has members that are not hosts of this database");
    let platform = on(platform, &original);
    platform.publish(after);
    platform.assert_sales_are_right();
    let told = until_told(&staging, "copied", &group);
    assert!(told["cause"].as_str().unwrap().contains("not hosts of this database"), "{told}");
    platform.until_shared_by(&group, 1);
    assert_joined_nothing(&staging);
    until_nothing_is_retried(&production);

    let platform = on(platform, &copied);
    let (code, _, said) = platform.command(&["adopt", "--new-groups", "--reason", "this is staging"]);
    assert!(code == 1 && said.contains("stop"), "{code}: {said}");
    staging.sigterm();
    eventually_done(&platform, &["adopt", "--new-groups", "--reason", "this is staging"]);
    let staging = platform.start_host("staging");
    assert_ne!(staging.group(SALES_BY_COUNTRY), group);
    platform.until_fresh();
    let copy = ReadModel::Postgres { url: copied };
    assert_same("the copy has what its original has", &platform.read_model().sales(), &copy.sales());
    staging.sigterm();
    production.sigterm();
}

/// The next host takes the place of one that was killed, whose membership lasts a while.
#[test]
fn a_host_that_was_killed_is_no_stranger_to_the_next_one() {
    let platform = with_admin(Platform::new("killed-member", &[SALES_BY_COUNTRY], ReadModel::postgres()));
    platform.create_topics(2);
    let records = history(&platform, seed(463));
    let (before, after) = records.split_at(300);
    platform.publish(before);
    let first = platform.start_host("first");
    platform.assert_sales_are_right();
    first.kill();
    let second = platform.start_host("second");
    platform.publish(after);
    platform.assert_sales_are_right();
    let lines = second.sigterm().lines();
    let told = lines.iter().find(|line| line.field("kind") == "copied");
    assert!(told.is_none(), "{:?}", told.map(|line| &line.text));
}

#[test]
fn a_copied_sqlite_file_is_told_from_its_original_and_a_moved_one_is_not() {
    let platform = with_admin(Platform::new("copied-file", &[SALES_BY_COUNTRY], ReadModel::sqlite()));
    platform.create_topics(2);
    let records = history(&platform, seed(464));
    let (before, after) = records.split_at(300);
    platform.publish(before);
    let host = platform.start_host("host");
    let group = host.group(SALES_BY_COUNTRY);
    platform.assert_sales_are_right();
    host.sigterm();
    let directory = platform.directory().to_owned();
    let file = |name: &str| -> (PathBuf, String) {
        let file = directory.join(name);
        let url = format!("sqlite://{}", file.display());
        (file, url)
    };
    let ((original, original_url), (copied, copied_url)) = (file("readmodel.db"), file("copy.db"));
    fs::copy(&original, &copied).unwrap();

    let production = platform.start_host("production");
    production.group(SALES_BY_COUNTRY);
    let platform = on(platform, &copied_url);
    let staging = platform.start_host("staging");
    until_told(&staging, "copied", "is not the one");
    let platform = on(platform, &original_url);
    platform.publish(after);
    platform.assert_sales_are_right();
    platform.until_shared_by(&group, 1);
    assert_joined_nothing(&staging);

    let platform = on(platform, &copied_url);
    eventually_done(&platform, &["adopt", "--new-groups", "--reason", "this is staging"]);
    assert_ne!(staging.group(SALES_BY_COUNTRY), group);
    platform.until_fresh();
    staging.sigterm();
    production.sigterm();

    // Moved on its file system, as a volume that is mounted elsewhere, it is the same file.
    let (moved, moved_url) = file("moved.db");
    fs::rename(&original, &moved).unwrap();
    let platform = on(platform, &moved_url);
    let host = platform.start_host("host");
    assert_eq!(host.group(SALES_BY_COUNTRY), group);
    eventually("it goes on", || match platform.status()?.get(SALES_BY_COUNTRY) {
        Some(status) if status.fresh => Ok(()),
        _ => Err("it is not fresh".to_owned()),
    });
    host.sigterm();
}
