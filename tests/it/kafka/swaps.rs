//! Versions change under load and during rebalances, and no event is lost or doubled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use projector_config::{self as config, Limits};
use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::layout::Offered;
use projector_core::ownership::Signer;
use projector_core::topics::{PhysicalTopics, TopicMapping};
use projector_sandbox::Plugin;
use projector_store::deployments::{Proposal, Proposed};
use projector_store::{self as store, Component, Requester, Store};
use projector_workload::{Publisher, Record, Turn};
use tokio::runtime::Runtime;

use super::rebalance::StopWhenDropped;
use crate::harness::{
    HostLog, Platform, Plugins, ReadModel, SALES_BY_COUNTRY, eventually, guest, load, seed, variant,
};

/// Has versions be the active one as `projector deploy` does, faster than it can be started.
struct Deployer {
    runtime: Runtime,
    store: Arc<dyn Store>,
    versions: Vec<(Vec<u8>, Plugin)>,
    topics: TopicMapping,
}

impl Deployer {
    fn new(platform: &Platform, versions: &[Vec<u8>]) -> Deployer {
        let ReadModel::Postgres { url } = platform.read_model() else { panic!("SQLite has one host") };
        let settings: config::Store = toml::from_str(&format!("url = '{url}'")).unwrap();
        let runtime = Runtime::new().unwrap();
        let store = runtime.block_on(store::open(&settings)).unwrap();
        let loaded = versions.iter().map(|bytes| (bytes.clone(), load(bytes, &Limits::default())));
        let versions: Vec<(Vec<u8>, Plugin)> = loaded.collect();
        // As the configuration of the hosts maps them.
        let topics = TopicMapping::new(versions[0].1.contract.topics.iter().map(|topic| {
            let physical = PhysicalTopics::named(&platform.topic(&topic.name));
            (topic.name.clone(), physical.expect("its name is legal"))
        }));
        Deployer { store, versions, topics, runtime }
    }

    /// `wait`: until the hosts say that they can run it, and one of them carries it out.
    fn deploy(&self, version: usize, wait: bool) {
        let (bytes, plugin) = &self.versions[version];
        let contract = &plugin.contract;
        let proposal = Proposal {
            component: Component { digest: &plugin.digest, bytes, contract, signature: None },
            action: DeploymentAction::Deploy,
            origin: Origin::Command,
            requester: Requester::new("a test".into(), None),
            signer: &Signer::Nobody,
        };
        self.runtime.block_on(async {
            let Proposed::Open(id) = self.store.propose(&proposal).await.unwrap() else { return };
            if !wait {
                self.store.activate(id, Offered { contract, topics: &self.topics }).await.unwrap();
                return;
            }
            let deadline = Instant::now() + Duration::from_secs(40);
            while self.store.open_deployments().await.unwrap().iter().any(|open| open.id == id) {
                assert!(Instant::now() < deadline, "no host carries it out");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
}

/// Publishes so many events a second, for as long as it is told to, and no more than are `due`; returns how many those
/// were.
fn publish_at_rate(
    platform: &Platform,
    records: &[Record],
    rate: usize,
    due: impl Fn() -> usize,
    wanted: &AtomicBool,
) -> usize {
    let begun = Instant::now();
    let pace = |record: usize| {
        let now = record < due() && record as f64 <= begun.elapsed().as_secs_f64() * rate as f64;
        Ok(if wanted.load(Ordering::Relaxed) { Turn::from(now) } else { Turn::Never })
    };
    let published = Publisher::new(platform.brokers()).pace(pace).publish(records).unwrap().len();
    assert!(published < records.len(), "the history was too short");
    published
}

/// Milliseconds between the last commit of the version before and the first of the next one.
fn gaps(log: &HostLog) -> Vec<u64> {
    let mut gaps: Vec<u64> = (log.lines().iter())
        .filter(|line| line.message() == "switched to another version")
        .map(|line| line.number("gap_ms").unwrap())
        .collect();
    gaps.sort_unstable();
    gaps
}

/// Two hundred versions, each after the other's first batches at the earliest.
#[test]
fn two_hundred_swaps_under_load_lose_and_double_nothing() {
    const RATE: usize = 2_500;
    const SWAPS: usize = 200;
    /// So that a machine on which swaps are slow has events to the last of them.
    const EVENTS_A_SWAP: usize = 1_500;
    let component = guest(SALES_BY_COUNTRY);
    let versions = [variant(&component, 1), variant(&component, 2)];
    let plugins = Plugins::new(&[]).add("sales-by-country.wasm", &versions[0]);
    let platform = Platform::new("swaps", &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path())
        .set(&["deploy", "trial-batches"], 5);
    platform.create_topics(4);
    let events = (SWAPS + 2) * EVENTS_A_SWAP;
    let records: Vec<Record> = platform.workload(seed(5_000), events).records().collect();
    let host = platform.start_host("host");
    host.group(SALES_BY_COUNTRY);
    let deployer = Deployer::new(&platform, &versions);
    let (flowing, swaps) = (AtomicBool::new(true), AtomicUsize::new(0));
    let due = || (swaps.load(Ordering::Relaxed) + 1) * EVENTS_A_SWAP;
    let begun = Instant::now();
    let published = thread::scope(|scope| {
        let _last = StopWhenDropped(&flowing);
        let publisher = scope.spawn(|| publish_at_rate(&platform, &records, RATE, due, &flowing));
        // The host compiles the second version once, and knows both from then on.
        deployer.deploy(1, true);
        for swap in 0..SWAPS {
            let before = platform.read_model().checkpoints(SALES_BY_COUNTRY);
            deployer.deploy(swap % 2, false);
            swaps.store(swap + 1, Ordering::Relaxed);
            eventually("events are read on", || {
                let now = platform.read_model().checkpoints(SALES_BY_COUNTRY);
                if now != before { Ok(()) } else { Err("none was") }
            });
        }
        flowing.store(false, Ordering::Relaxed);
        publisher.join().unwrap()
    });
    let seconds = begun.elapsed().as_secs_f64();
    platform.assert_sales_are_right();
    let log = host.sigterm();
    let tally = log.tally(SALES_BY_COUNTRY);
    assert_eq!((tally.events as usize, tally.fenced), (sales_events(&platform), 0));
    let runs = log.lines().iter().filter(|line| line.message() == "projection runs").count();
    assert_eq!(runs, 1, "no consumer was started anew");
    let gaps = gaps(&log);
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize];
    println!(
        "{} swaps, {:.0} events/s published: gap p50 {} ms, p90 {} ms, p99 {} ms, most {} ms",
        gaps.len(),
        published as f64 / seconds,
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
    assert!(gaps.len() > 150, "{} swaps were seen", gaps.len());
}

fn sales_events(platform: &Platform) -> usize {
    let status = platform.status().unwrap();
    status[SALES_BY_COUNTRY].counters.read as usize
}

/// Fault 30: three hosts, of which one comes and goes, while versions change.
#[test]
fn versions_change_during_rebalances() {
    let component = guest(SALES_BY_COUNTRY);
    let versions = [variant(&component, 1), variant(&component, 2), variant(&component, 3)];
    let plugins = Plugins::new(&[]).add("sales-by-country.wasm", &versions[0]);
    let platform = Platform::new("moving-swaps", &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path())
        .set(&["batch", "events"], 50);
    platform.create_topics(6);
    let records: Vec<Record> = platform.workload(seed(30), 300_000).records().collect();
    let residents = [platform.start_host("one"), platform.start_host("two")];
    let group = residents[0].group(SALES_BY_COUNTRY);
    platform.until_shared_by(&group, 2);
    let deployer = Deployer::new(&platform, &versions);
    let flowing = AtomicBool::new(true);
    thread::scope(|scope| {
        let _last = StopWhenDropped(&flowing);
        scope.spawn(|| publish_at_rate(&platform, &records, 2_000, || usize::MAX, &flowing));
        for visit in 0..3 {
            let visitor = platform.start_host(&format!("visitor {visit}"));
            // While it joins.
            deployer.deploy(1 + visit % 2, true);
            platform.until_shared_by(&group, 3);
            match visit {
                0 | 1 => drop(visitor.sigterm()),
                _ => visitor.kill(),
            }
            // While it is missed.
            deployer.deploy(visit % 2, true);
            platform.until_shared_by(&group, 2);
        }
        flowing.store(false, Ordering::Relaxed);
    });
    platform.assert_sales_are_right();
    for host in residents {
        let log = host.sigterm();
        assert_eq!(log.tally(SALES_BY_COUNTRY).fenced, 0, "no host wrote what was another's");
    }
}

/// Fault 31: hosts with different directories agree on one version, and an old image that is started
/// again changes nothing.
#[test]
fn hosts_with_different_directories_agree() {
    let component = guest(SALES_BY_COUNTRY);
    let [old, new] = [1, 2].map(|number| variant(&component, number));
    let digests = [&old, &new].map(|bytes| load(bytes, &Limits::default()).digest);
    let (first, second) = (
        Plugins::new(&[]).add("sales-by-country.wasm", &old),
        Plugins::new(&[]).add("sales-by-country.wasm", &new),
    );
    let platform = Platform::new("skewed", &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["plugins", "directory"], first.path());
    platform.create_topics(4);
    let records: Vec<Record> = platform.workload(seed(31), 3_000).records().collect();
    let (before, after) = records.split_at(1_000);
    platform.publish(before);
    let one = platform.start_host("old image");
    let group = one.group(SALES_BY_COUNTRY);
    platform.until_fresh();
    let platform = platform.set(&["plugins", "directory"], second.path());
    let two = platform.start_host("new image");
    eventually("the new version is active", || match &platform.status()?[SALES_BY_COUNTRY].digest {
        digest if *digest == digests[1] => Ok(()),
        digest => Err(digest.clone()),
    });
    let platform = platform.set(&["plugins", "directory"], first.path());
    one.kill();
    let one = platform.start_host("old image again");
    one.log().until_said("the component in the plugin directory does not become active");
    platform.until_shared_by(&group, 2);
    platform.publish(after);
    platform.assert_sales_are_right();
    assert_eq!(platform.status().unwrap()[SALES_BY_COUNTRY].digest, digests[1]);
    let history = platform.ask(&["history", SALES_BY_COUNTRY]);
    assert_eq!(history.as_array().unwrap().len(), 2, "{history:#}");
    for host in [one, two] {
        host.sigterm();
    }
}

/// Whoever carries a deployment out dies: before it is committed, and after.
#[test]
fn a_host_killed_in_the_middle_of_a_deployment_leaves_it_to_another() {
    let component = guest(SALES_BY_COUNTRY);
    let [old, new] = [1, 2].map(|number| variant(&component, number));
    let digest = load(&new, &Limits::default()).digest;
    for place in ["before-activation", "after-activation"] {
        let plugins = Plugins::new(&[]).add("sales-by-country.wasm", &old);
        let platform = Platform::new("killed-deploying", &[SALES_BY_COUNTRY], ReadModel::postgres())
            .set(&["plugins", "directory"], plugins.path());
        platform.create_topics(2);
        let records: Vec<Record> = platform.workload(seed(9), 2_000).records().collect();
        let (before, after) = records.split_at(1_000);
        platform.publish(before);
        // The second time: the first is its first version.
        let dying = platform.start_host_with("dying", &format!("{place}=kill@2"));
        dying.group(SALES_BY_COUNTRY);
        platform.until_fresh();
        let next = plugins.directory().join(".next");
        std::fs::write(&next, &new).unwrap();
        std::fs::rename(next, plugins.directory().join("sales-by-country.wasm")).unwrap();
        dying.until_killed_at(place);
        let heir = platform.start_host("heir");
        platform.publish(after);
        eventually("the new version is active", || match &platform.status()?[SALES_BY_COUNTRY].digest {
            active if *active == digest => Ok(()),
            active => Err(active.clone()),
        });
        platform.assert_sales_are_right();
        heir.sigterm();
    }
}

/// The race that the activation's lock prevents: a host that stopped in the middle of a batch of the old
/// version goes on when another one is active. Its batch is not written, and it goes over.
#[test]
fn a_batch_of_the_old_version_is_not_written_once_another_one_is_active() {
    let component = guest(SALES_BY_COUNTRY);
    let versions = [variant(&component, 1), variant(&component, 2)];
    let plugins = Plugins::new(&[]).add("sales-by-country.wasm", &versions[0]);
    let platform = Platform::new("overtaken", &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path())
        .set(&["batch", "events"], 50)
        .set(&["store", "idle-in-transaction-timeout"], "2s");
    platform.create_topics(1);
    let records: Vec<Record> = platform.workload(seed(77), 2_000).records().collect();
    let (before, after) = records.split_at(1_000);
    platform.publish(before);
    let stopped = platform.start_host_with("stopped", "before-commit=stop@4");
    stopped.group(SALES_BY_COUNTRY);
    let deployer = Deployer::new(&platform, &versions);
    platform.publish(after);
    stopped.until_stopped_at("before-commit");
    // Waits for the batch's share of the lock, until the server ends that session.
    deployer.deploy(1, false);
    stopped.cont();
    platform.assert_sales_are_right();
    assert_eq!(platform.status().unwrap()[SALES_BY_COUNTRY].digest, deployer.versions[1].1.digest);
    stopped.sigterm();
}

/// Whoever carries a rollback out dies, and another one finishes it.
#[test]
fn a_host_killed_in_the_middle_of_a_rollback_leaves_it_to_another() {
    let component = guest(SALES_BY_COUNTRY);
    let [old, new] = [1, 2].map(|number| variant(&component, number));
    let digests = [&old, &new].map(|bytes| load(bytes, &Limits::default()).digest);
    let plugins = Plugins::new(&[]).add("sales-by-country.wasm", &old);
    let platform = Platform::new("killed-rolling-back", &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path());
    platform.create_topics(2);
    let records: Vec<Record> = platform.workload(seed(90), 2_000).records().collect();
    let (before, after) = records.split_at(1_000);
    platform.publish(before);
    let host = platform.start_host("host");
    platform.until_fresh();
    let file = platform.directory().join("new.wasm");
    std::fs::write(&file, &new).unwrap();
    platform.ask(&["deploy", &file.display().to_string()]);
    host.sigterm();
    let dying = platform.start_host_with("dying", "before-activation=kill@1");
    dying.group(SALES_BY_COUNTRY);
    thread::scope(|scope| {
        let rollback = scope.spawn(|| platform.command(&["rollback", SALES_BY_COUNTRY]));
        dying.until_killed_at("before-activation");
        let heir = platform.start_host("heir");
        let (code, _, said) = rollback.join().unwrap();
        assert_eq!(code, 0, "{said}");
        platform.publish(after);
        platform.assert_sales_are_right();
        heir.sigterm();
    });
    assert_eq!(platform.status().unwrap()[SALES_BY_COUNTRY].digest, digests[0]);
}
