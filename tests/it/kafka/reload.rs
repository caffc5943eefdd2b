//! A new version takes over between two batches, and goes away again if it is worse.

use std::path::Path;
use std::time::Duration;

use projector_workload::Record;

use crate::harness::{
    Argument, Guest, Host, Platform, Plugins, ReadModel, assert_closed, describing, descriptor, eventually,
    rows,
};

const COUNTS: &str = "counts";

/// Counts events by the first letter of their payloads; what stands in `trapping` traps.
fn counts(version: &str, trapping: &str) -> Vec<u8> {
    counts_as(&descriptor(COUNTS).replace("1.0.0", version), trapping)
}

fn counting(descriptor: &str) -> Guest {
    let mut guest = describing(descriptor);
    let answers: Vec<usize> =
        (0..26).map(|kind| guest.changes(&[(0, &[Argument::Int64(kind), Argument::Int64(1)])])).collect();
    guest.answering(&answers)
}

fn counts_as(descriptor: &str, trapping: &str) -> Vec<u8> {
    let guest = counting(descriptor);
    match trapping.bytes().next() {
        None => guest.component(),
        Some(letter) => trap_on(guest, letter).component(),
    }
}

fn trap_on(guest: Guest, letter: u8) -> Guest {
    on(guest, letter, "(unreachable)")
}

fn on(guest: Guest, letter: u8, code: &str) -> Guest {
    guest
        .before(&format!("(if (i32.eq (i32.load8_u (local.get $value)) (i32.const {letter})) (then {code}))"))
}

fn platform(name: &str, read_model: ReadModel, plugins: &Plugins) -> Platform {
    let platform = Platform::new(name, &[], read_model).set(&["plugins", "directory"], plugins.path());
    platform.create_topics(2);
    platform
}

fn publish(platform: &Platform, letters: &str) {
    let topic = platform.topic("hostile.events.v1");
    let records: Vec<Record> = (letters.chars().enumerate())
        .map(|(at, letter)| Record::new(&*topic, format!("k{at}"), letter.to_string()))
        .collect();
    platform.publish(&records);
}

/// As an editor or a copy does it that knows about readers: written beside, and renamed.
fn replace(plugins: &Plugins, bytes: &[u8]) {
    replace_in(plugins.directory(), bytes);
}

fn replace_in(directory: &Path, bytes: &[u8]) {
    let next = directory.join(".next");
    std::fs::write(&next, bytes).unwrap();
    std::fs::rename(next, directory.join("counts.wasm")).unwrap();
}

fn seen(platform: &Platform) -> Vec<Vec<Option<String>>> {
    rows(platform.read_model(), COUNTS, "seen", &["kind", "events"])
}

fn until_active(host: &Host, version: &str) {
    host.log().wait_for("the version", |line| {
        line.message() == "version active" && line.field("version") == version
    });
}

#[test]
fn a_replaced_file_takes_over_between_two_batches_without_a_rebalance() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", ""));
        let platform = platform("replaced", read_model, &plugins);
        publish(&platform, "ABA");
        let host = platform.start_host("host");
        assert_closed(&platform.until_through(COUNTS), 3, 0, 0);
        replace(&plugins, &counts("1.1.0", ""));
        until_active(&host, "1.1.0");
        publish(&platform, "AB");
        let through = platform.until_through(COUNTS);
        assert_closed(&through, 5, 0, 0);
        assert_eq!(through.version, "1.1.0");
        let log = host.sigterm();
        let runs = log.lines().iter().filter(|line| line.message() == "projection runs").count();
        assert_eq!(runs, 1, "no consumer was started anew");
        assert_eq!(log.tally(COUNTS).events, 5);
        let history = platform.ask(&["history", COUNTS]);
        let versions: Vec<_> =
            history.as_array().unwrap().iter().map(|one| one["version"].as_str().unwrap()).collect();
        assert_eq!(versions, ["1.1.0", "1.0.0"]);
    }
}

/// Fault 32.
#[test]
fn a_version_that_traps_where_the_one_before_did_not_is_reverted_by_itself() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", ""));
        let platform = platform("trapping", read_model, &plugins).set(&["failures", "policy"], "dead-letter");
        publish(&platform, "AB");
        let host = platform.start_host("host");
        platform.until_through(COUNTS);
        replace(&plugins, &counts("2.0.0", "B"));
        until_active(&host, "2.0.0");
        publish(&platform, "AABBA");
        let through = platform.until_through(COUNTS);
        assert_closed(&through, 7, 0, 0);
        assert_eq!(through.version, "1.0.0");
        let reverted = host.log().until_said("version reverted");
        assert!(reverted.field("reason").contains("unreachable"), "{}", reverted.text);
        let history = platform.ask(&["history", COUNTS]);
        assert_eq!(history[0]["action"], "revert");
        assert!(history[0]["reason"].as_str().unwrap().contains("does not fail in the previous version"));
        // The file lies there still, and nobody takes it up: neither this host nor one that is new.
        host.sigterm();
        let again = platform.start_host("again");
        again.log().until_said("the component in the plugin directory does not become active");
        publish(&platform, "B");
        assert_closed(&platform.until_through(COUNTS), 8, 0, 0);
        again.sigterm();
        assert_eq!(seen(&platform).len(), 2);
    }
}

#[test]
fn a_version_that_is_too_slow_where_the_previous_one_was_not_is_reverted() {
    let slow = on(counting(&descriptor(COUNTS).replace("1.0.0", "2.0.0")), b'B', "(loop $on (br $on))");
    let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", ""));
    let platform = platform("slow", ReadModel::sqlite(), &plugins)
        .set(&["limits", "fuel"], 1_i64 << 60)
        .set(&["limits", "time"], "400ms");
    publish(&platform, "AB");
    let host = platform.start_host("host");
    platform.until_through(COUNTS);
    replace(&plugins, &slow.component());
    until_active(&host, "2.0.0");
    publish(&platform, "AABBA");
    let through = platform.until_through(COUNTS);
    assert_closed(&through, 7, 0, 0);
    assert_eq!(through.version, "1.0.0");
    let log = host.sigterm();
    let reverts = log.lines().iter().filter(|line| line.message() == "version reverted").count();
    assert_eq!(reverts, 1);
}

/// Whoever deploys hears what became of the version, and the status tells as long as that is news.
#[test]
fn deploy_waits_for_the_end_of_the_trial_and_the_status_tells_of_a_revert() {
    let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", ""));
    let platform = platform("awaited", ReadModel::postgres(), &plugins)
        .set(&["failures", "policy"], "dead-letter")
        .set(&["deploy", "trial-batches"], 1);
    publish(&platform, "AB");
    let host = platform.start_host("host");
    platform.until_through(COUNTS);
    let deploy = |version: &str, trapping: &str, arguments: &[&str]| {
        let file = platform.directory().join("next.wasm");
        std::fs::write(&file, counts(version, trapping)).unwrap();
        let file = file.display().to_string();
        platform.command(&[&["deploy", &*file, "--output", "json"], arguments].concat())
    };
    let status = || platform.ask(&["status", COUNTS])["projections"][0].clone();

    // Nobody has tried it out yet, and that is said.
    let (code, deployed, said) = deploy("1.1.0", "", &[]);
    assert_eq!((code, &deployed["trial"]), (0, &"running".into()), "{said}");
    assert_eq!(status()["on_trial"], true);
    let (code, _, said) = deploy("1.2.0", "", &["--wait", "--timeout", "2s"]);
    assert!(code == 1 && said.contains("still on trial"), "{code}: {said}");

    let next = |version: &'static str, trapping: &'static str| {
        std::thread::scope(|scope| {
            let deployed = scope.spawn(|| deploy(version, trapping, &["--wait"]));
            until_active(&host, version);
            publish(&platform, "B");
            deployed.join().unwrap()
        })
    };
    let (code, deployed, said) = next("1.3.0", "");
    assert_eq!((code, &deployed["trial"]), (0, &"passed".into()), "{said}");
    assert_eq!((&status()["on_trial"], &status()["reverted"]), (&false.into(), &serde_json::Value::Null));
    let (code, _, said) = next("2.0.0", "B");
    assert!(code == 1 && said.contains("was reverted") && said.contains("unreachable"), "{code}: {said}");
    let told = status();
    assert_eq!((&told["version"], &told["reverted"]["version"]), (&"1.3.0".into(), &"2.0.0".into()));
    assert!(told["reverted"]["reason"].as_str().unwrap().contains("unreachable"), "{told:#}");
    let (_, _, said) = platform.command(&["status", COUNTS]);
    assert!(said.contains("REVERTED") && said.contains("2.0.0"), "{said}");
    // The next version is another matter.
    let (code, _, said) = next("2.1.0", "");
    assert!(code == 0 && status()["reverted"].is_null(), "{code}: {said}");

    // Readers see another generation: that it is active is not said.
    let anew = descriptor(COUNTS).replace("1.0.0", "3.0.0").replacen('{', r#"{"revision":2,"#, 1);
    let file = platform.directory().join("anew.wasm");
    std::fs::write(&file, counts_as(&anew, "")).unwrap();
    let (code, _, said) = platform.command(&["deploy", &file.display().to_string(), "--wait"]);
    assert!(code == 0 && said.contains("3.0.0 runs in generation 2"), "{code}: {said}");
    assert!(said.contains("until `projector promote counts`") && !said.contains("is active"), "{said}");
    host.log().until_said("version active in a generation beside the live one");
    let told = status();
    assert_eq!((&told["version"], &told["role"]), (&"2.1.0".into(), &"live".into()));
    assert_eq!(told["beside"][0]["role"], "building");
    host.sigterm();
}

/// Answers an instance's first event right, and each one after that as if it were another one.
fn forgetting(version: &str) -> Vec<u8> {
    let mut guest = describing(&descriptor(COUNTS).replace("1.0.0", version));
    let [right, wrong] =
        [0, 25].map(|kind| guest.changes(&[(0, &[Argument::Int64(kind), Argument::Int64(1)])]));
    let code = format!(
        "(if (result i32) (i32.gt_u (global.get $calls) (i32.const 1))
           (then (i32.const {wrong})) (else (i32.const {right})))"
    );
    guest.project(&code).component()
}

/// The sample begins anew with each version, and does not end with a batch of one event, which shows nothing.
#[test]
fn a_version_that_was_swapped_in_is_held_against_its_promise_to_be_pure() {
    let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", ""));
    let platform = platform("impure-later", ReadModel::postgres(), &plugins)
        .set(&["limits", "purity-sample"], 0.000_001);
    publish(&platform, "A");
    let host = platform.start_host("host");
    platform.until_through(COUNTS);
    let file = platform.directory().join("two.wasm");
    std::fs::write(&file, forgetting("2.0.0")).unwrap();
    platform.ask(&["deploy", &file.display().to_string()]);
    publish(&platform, "A");
    platform.until_through(COUNTS);
    publish(&platform, &"A".repeat(200));
    platform.until_through(COUNTS);
    let impure = || platform.ask(&["status", COUNTS])["projections"][0]["impure"].clone();
    eventually("the status tells that it is impure", || {
        if impure().is_null() { Err("it does not") } else { Ok(()) }
    });
    // What the version before is said to be is not said of the next one.
    platform.ask(&["rollback", COUNTS]);
    assert!(impure().is_null());
    assert!(host.sigterm().tally(COUNTS).impure > 0);
}

/// An event for which both fail is no reason to go back.
#[test]
fn a_version_that_fails_where_the_one_before_did_as_well_stays() {
    let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", "B"));
    let platform =
        platform("both-fail", ReadModel::postgres(), &plugins).set(&["failures", "policy"], "dead-letter");
    publish(&platform, "A");
    let host = platform.start_host("host");
    platform.until_through(COUNTS);
    replace(&plugins, &counts("2.0.0", "B"));
    until_active(&host, "2.0.0");
    publish(&platform, "ABA");
    let through = platform.until_through(COUNTS);
    assert_closed(&through, 4, 0, 1);
    assert_eq!(through.version, "2.0.0");
    host.sigterm();
}

#[test]
fn rollback_brings_the_version_before_back_and_a_command_the_later_one() {
    let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", ""));
    let platform = platform("back", ReadModel::postgres(), &plugins);
    publish(&platform, "A");
    let host = platform.start_host("host");
    platform.until_through(COUNTS);
    let file = platform.directory().join("two.wasm");
    std::fs::write(&file, counts("2.0.0", "")).unwrap();
    let file = file.display().to_string();
    let planned = platform.ask(&["plan", &file]);
    assert_eq!((&planned["change"], &planned["had_before"]), (&"in-place".into(), &false.into()));
    let deployed = platform.ask(&["deploy", &file, "--as", "ann", "--reason", "it is better"]);
    assert_eq!(deployed["deployment"]["state"], "done", "{deployed:#}");
    assert_eq!(deployed["hosts"].as_array().unwrap().len(), 1);
    let version = || platform.status().unwrap()[COUNTS].version.clone();
    assert_eq!(version(), "2.0.0");
    platform.ask(&["rollback", COUNTS, "--as", "bob"]);
    assert_eq!(version(), "1.0.0");
    publish(&platform, "A");
    platform.until_through(COUNTS);
    platform.ask(&["deploy", &file]);
    assert_eq!(version(), "2.0.0");
    publish(&platform, "A");
    assert_closed(&platform.until_through(COUNTS), 3, 0, 0);
    let history = platform.ask(&["history", COUNTS]);
    let actions: Vec<_> =
        history.as_array().unwrap().iter().map(|one| one["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["deploy", "rollback", "deploy", "deploy"]);
    host.sigterm();
}

/// Fault 31: a file that is gone, and a directory that is, stop nothing; `stop` and `drop` do.
#[test]
fn a_missing_file_stops_nothing_and_commands_do() {
    let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", ""));
    let platform = platform("stopped", ReadModel::postgres(), &plugins);
    publish(&platform, "A");
    let host = platform.start_host("host");
    platform.until_through(COUNTS);
    let directory = plugins.directory().to_owned();
    std::fs::remove_dir_all(&directory).unwrap();
    publish(&platform, "A");
    assert_closed(&platform.until_through(COUNTS), 2, 0, 0);
    host.sigterm();
    // Nor does a start without the directory.
    let host = platform.start_host("without");
    publish(&platform, "A");
    assert_closed(&platform.until_through(COUNTS), 3, 0, 0);
    let (code, _, said) = platform.command(&["drop", COUNTS, "--reason", "x"]);
    assert!(code == 1 && said.contains("projector stop counts"), "{said}");
    platform.ask(&["stop", COUNTS, "--reason", "the team is gone"]);
    host.log().until_said("projection stopped");
    publish(&platform, "A");
    let status = platform.status().unwrap().remove(COUNTS).unwrap();
    assert!(status.halted.unwrap().reason.contains("the team is gone"));
    platform.ask(&["drop", COUNTS, "--reason", "nobody reads it"]);
    assert!(platform.status().unwrap().is_empty());
    // What was dropped does not come back with its file, and does with a command.
    std::fs::create_dir_all(&directory).unwrap();
    replace_in(&directory, &counts("1.0.0", ""));
    let patience = Duration::from_secs(30);
    let platform = platform.set(&["plugins", "rescan"], "1s");
    host.sigterm();
    let host = platform.start_host("again");
    host.log().until_said("the component in the plugin directory does not become active");
    assert!(platform.status().unwrap().is_empty());
    let file = directory.join("counts.wasm").display().to_string();
    let timeout = format!("{}s", patience.as_secs());
    platform.ask(&["deploy", &file, "--timeout", &timeout]);
    assert_closed(&platform.until_through(COUNTS), 4, 0, 0);
    let schemas = platform.read_model().query(
        "select schema_name from information_schema.schemata where schema_name like 'counts%' order by 1",
    );
    let schemas: Vec<_> = schemas.iter().flatten().flatten().map(String::as_str).collect();
    assert_eq!(schemas, ["counts", "counts_g2"]);
    host.sigterm();
    eventually("it is seen", || if seen(&platform).len() == 1 { Ok(()) } else { Err("it is not") });
}

/// Activation waits for every host's word; one that cannot run a version leaves the group, and the others
/// go on.
#[test]
fn a_host_that_cannot_run_a_version_leaves_its_group_and_says_so() {
    let first = counts("1.0.0", "");
    let mut second = counts("2.0.0", "");
    // A section that nobody reads, of 100,000 bytes.
    second.extend([0, 0xa0, 0x8d, 0x06, 1, b'x']);
    second.resize(second.len() + 99_998, 0);
    let plugins = Plugins::new(&[]).add("counts.wasm", &first);
    let platform = platform("left", ReadModel::postgres(), &plugins);
    let able = platform.start_host("able");
    let group = able.group(COUNTS);
    let most = (first.len() + 50_000) as i64;
    let platform = platform.set(&["limits", "component-bytes"], most);
    let unable = platform.start_host("unable");
    platform.until_shared_by(&group, 2);
    let file = platform.directory().join("two.wasm");
    std::fs::write(&file, &second).unwrap();
    let platform = platform.set(&["limits", "component-bytes"], 1_000_000);
    let deployed = platform.ask(&["deploy", &file.display().to_string()]);
    let refusals = deployed["refusals"].as_array().unwrap();
    assert!(refusals.len() == 1 && refusals[0][1].as_str().unwrap().contains("are the most"), "{deployed:#}");
    assert_eq!(deployed["hosts"].as_array().unwrap().len(), 1);
    unable.log().until_said("this host cannot run the component");
    platform.until_shared_by(&group, 1);
    publish(&platform, "ABCABC");
    assert_closed(&platform.until_through(COUNTS), 6, 0, 0);
    // It takes part again when it can.
    platform.ask(&["rollback", COUNTS]);
    platform.until_shared_by(&group, 2);
    for host in [able, unable] {
        host.sigterm();
    }
}

/// The signer of the first component of a name owns the name, and only listed components may run.
#[test]
fn only_what_is_listed_runs_and_a_name_keeps_its_owner() {
    let [listed, unlisted] = [counts("1.0.0", ""), counts("1.0.1", "")];
    let digest = |bytes: &[u8]| projector_sandbox::digest(bytes);
    let plugins = Plugins::new(&[]).add("counts.wasm", &listed);
    let platform = platform("listed", ReadModel::postgres(), &plugins);
    let lock = |version: &str, bytes: &[u8]| {
        let sha256 = digest(bytes);
        let entry =
            format!("[[plugin]]\nname = \"counts\"\nversion = \"{version}\"\nsha256 = \"{sha256}\"\n");
        std::fs::write(platform.directory().join("plugins.lock"), entry).unwrap();
    };
    lock("1.0.0", &listed);
    publish(&platform, "A");
    let host = platform.start_host("host");
    platform.until_through(COUNTS);
    replace(&plugins, &unlisted);
    let refused = host.log().wait_for("the refusal", |line| line.message() == "plugin refused");
    assert!(refused.field("reason").contains("does not list the component"), "{}", refused.text);
    let file = plugins.directory().join("counts.wasm").display().to_string();
    let (code, said) = platform.says(&["deploy", &file]);
    assert!(code == 1 && said.contains("does not list the component"), "{code}: {said}");
    host.sigterm();
    // Without a lock file the component is neither signed nor listed, and the name has its owner.
    std::fs::remove_file(platform.directory().join("plugins.lock")).unwrap();
    let (code, _, said) = platform.command(&["deploy", &file]);
    assert!(code == 1 && said.contains("lock"), "{code}: {said}");
    lock("1.0.1", &unlisted);
    let host = platform.start_host("again");
    eventually("it is deployed", || match &*platform.status()?[COUNTS].version {
        "1.0.1" => Ok(()),
        version => Err(version.to_owned()),
    });
    host.sigterm();
}
