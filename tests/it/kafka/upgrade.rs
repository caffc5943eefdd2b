//! Hosts of the version before and of this one, on one database: an upgrade stops nothing, and can be taken back.
//!
//! The program of the version before is a real one: `cargo xtask upgrade` builds it from its commit and runs these
//! tests. `cargo xtask test` leaves them out, and says so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use super::rebalance::{StopWhenDropped, history, publish_while, until_read_on};
use crate::harness::{
    Before, GATES, Gates, ORDER_SEARCH, Platform, ReadModel, SALES_BY_COUNTRY, eventually, seed, variant,
};

/// One after the other, and back: new beside old, a deployment for both, requests of both programs, the old one
/// killed and started on the tables of the new one, and the old one alone again.
#[test]
fn an_upgrade_host_by_host_loses_and_doubles_nothing() {
    const BOTH: [&str; 2] = [ORDER_SEARCH, SALES_BY_COUNTRY];
    let before = Before::locate();
    let program = before.program();
    let platform = Platform::new("upgraded", &BOTH, ReadModel::postgres()).set(&["batch", "events"], 50);
    before.install(&BOTH, &platform.directory().join("plugins"));
    platform.create_topics(4);
    let records = history(&platform, seed(26), 400_000);
    let old = platform.start_host_of(&program, "old");
    let groups = BOTH.map(|projection| old.group(projection));
    let shared_by = |members: usize| {
        for (group, projection) in groups.iter().zip(BOTH) {
            platform.until_shared_by(group, members);
            until_read_on(&platform, projection, 500);
        }
    };
    let notices = || platform.ask(&["status"])["notices"].to_string();
    let flowing = AtomicBool::new(true);
    thread::scope(|scope| {
        let _last = StopWhenDropped(&flowing);
        scope.spawn(|| publish_while(&platform, &records, &flowing));
        shared_by(1);
        // The commands of this version change nothing before a host of this version does.
        let (code, _, said) = platform.command(&["status"]);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(code == 2 && said.contains("`projector migrate`"), "{code}: {said}");

        // It brings the tables up to date under the writes of the old one.
        let new = platform.start_host("new");
        shared_by(2);
        assert!(notices().contains("of an older version"), "{}", notices());
        let file = platform.directory().join("next.wasm");
        std::fs::write(&file, variant(&before.guest(SALES_BY_COUNTRY), 1)).unwrap();
        let deployed = platform.ask(&["deploy", &file.display().to_string()]);
        assert_eq!(
            (deployed["hosts"].as_array().map(Vec::len), &deployed["refusals"]),
            (Some(2), &json!([])),
            "{deployed:#}"
        );
        shared_by(2);
        platform.ask_of(&program, &["pause", ORDER_SEARCH, "--reason", "by the old program"]);
        platform.ask(&["resume", ORDER_SEARCH]);
        platform.ask(&["pause", SALES_BY_COUNTRY, "--reason", "by the new program"]);
        platform.ask_of(&program, &["resume", SALES_BY_COUNTRY]);
        platform.ask_of(&program, &["rollback", SALES_BY_COUNTRY]);
        let reading: [&[&str]; 4] =
            [&["status"], &["history", SALES_BY_COUNTRY], &["operations"], &["dlq", "list"]];
        for arguments in reading {
            platform.ask_of(&program, arguments);
            platform.ask(arguments);
        }
        shared_by(2);

        // It starts on tables that it did not make, and goes on alone when the upgrade is taken back.
        old.kill();
        let old = platform.start_host_of(&program, "old again");
        shared_by(2);
        new.sigterm();
        shared_by(1);
        let new = platform.start_host("new again");
        shared_by(2);
        old.sigterm();
        shared_by(1);
        eventually("no host of an older version is live", || match notices() {
            notices if notices.contains("older") => Err(notices),
            _ => Ok(()),
        });
        flowing.store(false, Ordering::Relaxed);
        platform.until_fresh();
        new.sigterm();
    });
    let last = platform.start_host("last");
    platform.assert_orders_are_right();
    platform.assert_sales_are_right();
    last.sigterm();
}

/// What one of them put aside, the other one deals with; on SQLite one after the other.
#[test]
fn what_either_version_put_aside_the_other_one_retries() {
    let before = Before::locate();
    let program = before.program();
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("put-aside", 2, read_model).set(&["batch", "events"], 2);
        before.install(&["gates-guest"], gates.directory());
        let platform = &gates.platform;
        let retry = |by_the_old_one: bool| {
            let arguments = ["dlq", "retry", GATES, "--all", "--reason", "the gate is open"];
            let done = match by_the_old_one {
                true => platform.ask_of(&program, &arguments),
                false => platform.ask(&arguments),
            };
            assert_eq!(done[0]["verdict"]["outcome"], "applied", "{done:#}");
        };

        let old = platform.start_host_of(&program, "old");
        gates.publish(&["a1", "a2 if x", "a3", "b1"]);
        eventually(
            "the old host is through",
            || match platform.ask_of(&program, &["status"])["projections"] {
                ref projections if projections[0]["fresh"] == true => Ok(()),
                ref projections => Err(projections.to_string()),
            },
        );
        old.sigterm();

        let new = platform.start_host("new");
        gates.publish(&["a4", "b2"]);
        gates.until_through();
        gates.open(&["x"]);
        gates.until_through();
        retry(true);
        assert_eq!(gates.trails_of(["a", "b"]), ["1 2 3 4", "1 2"]);
        // A host of that version does not start on a SQLite file of a later one.
        if matches!(platform.read_model(), ReadModel::Sqlite { .. }) {
            new.sigterm();
            continue;
        }
        gates.publish(&["b3 if y", "b4", "a5"]);
        gates.until_through();
        new.sigterm();

        let old = platform.start_host_of(&program, "old again");
        gates.publish(&["b5", "a6"]);
        gates.until_through();
        gates.open(&["y"]);
        gates.until_through();
        retry(false);
        assert_eq!(gates.trails_of(["a", "b"]), ["1 2 3 4 5 6", "1 2 3 4 5"]);
        old.sigterm();
    }
}
