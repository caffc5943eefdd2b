//! Nothing grows: a host goes on for long under deployments, rebuilds, dead letters and connections that break, and its
//! memory, threads, descriptors, tasks and tables stay as they are. No event is lost or doubled meanwhile.
//!
//! `cargo xtask soak` runs it for an hour. In the tests it runs for half a minute, which shows that all of it works, and is
//! too short to tell what grows.

mod samples;

use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use projector_test_servers::Postgres;
use projector_workload::{Publisher, Record};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::generations::{COUNTS, counts};
use super::rebalance::StopWhenDropped;
use crate::harness::{CuttingProxy, GATES, Host, Platform, Plugins, ReadModel, Session, seed, with_admin};
use samples::{Sample, head, medians};

/// Unless `PROJECTOR_SOAK_MINUTES` says otherwise.
const SHORT: Duration = Duration::from_secs(30);
/// What is shorter does not tell what grows: operations are kept for ten minutes whatever their number.
const TELLING: Duration = Duration::from_secs(30 * 60);
const BETWEEN_SAMPLES: Duration = Duration::from_secs(5);
/// Events a second.
const RATE: u64 = 50;
/// Connections break meanwhile.
const DELIVERY_TIMEOUT_MS: &str = "600000";
/// Versions that come and go.
const VERSIONS: u64 = 8;
/// Keys of which an event fails, each round.
const FAILING: usize = 6;
/// How long anything may take that is asked for: longer than elsewhere, as connections break meanwhile, and a promotion
/// that was refused is tried again after up to five minutes.
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(250);

/// What is done in each round, in an order of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Swap,
    Rebuild,
    DeadLetters,
    CutDatabase,
    CutBrokers,
    CutBoth,
}

const DEEDS: [Deed; 6] =
    [Deed::Swap, Deed::Rebuild, Deed::DeadLetters, Deed::CutDatabase, Deed::CutBrokers, Deed::CutBoth];

struct Soak {
    platform: Platform,
    database: CuttingProxy,
    brokers: CuttingProxy,
    random: StdRng,
    began: Instant,
    round: u64,
    /// Connections that were cut.
    cut: usize,
    done: BTreeMap<Deed, u64>,
    dead_letters: usize,
}

#[test]
fn nothing_grows() {
    let minutes = env::var("PROJECTOR_SOAK_MINUTES").ok().map(|minutes| minutes.parse::<f64>().unwrap());
    let length = minutes.map_or(SHORT, |minutes| Duration::from_secs_f64(minutes * 60.0));
    let seed = seed(20);
    let (brokers, kafka) = CuttingProxy::before_kafka();
    let server = Postgres::start().unwrap();
    let database = CuttingProxy::to(server.port());
    let read_model = ReadModel::on(&server);
    let ReadModel::Postgres { url } = &read_model else { unreachable!("it is on Postgres") };
    let mut session = Session::open(url).unwrap();
    let by_proxy = database.url(url);
    let plugins = Plugins::new(&["gates-guest"]).add("counts.wasm", version(0));
    let bootstrap = format!("127.0.0.1:{}", brokers.port());
    let platform = Platform::on(&bootstrap, "soak", &[], read_model).with_own_program();
    let platform = with_admin(platform)
        .set(&["plugins", "directory"], plugins.path())
        .set(&["store", "url"], by_proxy)
        // Most of the events of one projection fail, and are to.
        .set(&["failures", "consecutive"], i64::MAX)
        .set(&["failures", "ratio"], 1.0)
        .set(&["deploy", "promote"], "when-fresh")
        .set(&["deploy", "rebuild-share"], 1.0)
        .set(&["deploy", "trial-batches"], 5)
        .set(&["keep", "warm-generations"], 1)
        .set(&["keep", "versions"], 4)
        .set(&["keep", "deployments"], 40)
        .set(&["keep", "operations"], 40);
    platform.create_topics(2);
    let host = platform.start_host("soak");
    say(&format!("soak of {} s, seed {seed}\n{}", length.as_secs(), head()));
    let mut soak = Soak {
        platform,
        database,
        brokers,
        random: StdRng::seed_from_u64(seed),
        began: Instant::now(),
        round: 0,
        cut: 0,
        done: BTreeMap::new(),
        dead_letters: 0,
    };
    let (flowing, published) = (AtomicBool::new(true), AtomicI64::new(0));
    let topic = soak.platform.topic("hostile.events.v1");
    let taken = thread::scope(|scope| {
        let _last = StopWhenDropped(&flowing);
        scope.spawn(|| publish(&bootstrap, &topic, &flowing, &published));
        let (over, is_over) = channel();
        let (host, began) = (&host, soak.began);
        let sampler = scope.spawn(move || sample(began, host, &mut session, &is_over));
        soak.run_for(length);
        drop(over);
        sampler.join().unwrap()
    });
    soak.until_all_is_counted(published.load(Ordering::SeqCst));
    host.sigterm();
    let Soak { done, cut, dead_letters, .. } = &soak;
    say(&format!("done: {done:?}; {cut} connections cut; {dead_letters} dead letters"));
    for deed in DEEDS {
        assert!(done.contains_key(&deed), "{deed:?} was never done: {done:?}");
    }
    assert!(*cut > 0 && *dead_letters > 0);
    let medians = medians(&taken);
    say("medians of three windows, one after the other, after a quarter of the time:");
    medians.iter().for_each(|medians| say(&medians.line()));
    if length >= TELLING {
        let grows: Vec<&str> = medians.iter().filter(|one| one.grows()).map(|one| &*one.name).collect();
        assert!(grows.is_empty(), "these grow: {grows:?} (seed {seed})");
    }
    drop(kafka);
}

/// The same component under another version.
fn version(number: u64) -> Vec<u8> {
    counts(&format!("1.0.{}", number % VERSIONS), |_| {})
}

/// At once, whoever collects the output.
fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}

/// Samples until it is over, and shows each.
fn sample(began: Instant, host: &Host, database: &mut Session, is_over: &Receiver<()>) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    while is_over.recv_timeout(BETWEEN_SAMPLES) == Err(RecvTimeoutError::Timeout) {
        let Some(sample) = Sample::take(began.elapsed(), host, database) else { continue };
        if samples.len() % 24 == 23 {
            say(&head());
        }
        say(&sample.line());
        samples.push(sample);
    }
    samples
}

/// Publishes on and on; counts what the brokers acknowledged.
fn publish(bootstrap: &str, topic: &str, flowing: &AtomicBool, published: &AtomicI64) {
    while flowing.load(Ordering::SeqCst) {
        let records: Vec<Record> = (0..RATE * 5)
            .map(|at| {
                let letter = char::from(b'A' + u8::try_from(at % 26).unwrap());
                Record::new(topic, format!("k{at}"), letter.to_string())
            })
            .collect();
        let began = Instant::now();
        let pace = |index: usize| Ok(began.elapsed().as_millis() * u128::from(RATE) / 1_000 >= index as u128);
        let publisher = Publisher::new(bootstrap).property("delivery.timeout.ms", DELIVERY_TIMEOUT_MS);
        publisher.pace(pace).publish(&records).unwrap();
        published.fetch_add(records.len() as i64, Ordering::SeqCst);
    }
}

impl Soak {
    /// Round after round, until the time is over; the last one is done to its end.
    fn run_for(&mut self, length: Duration) {
        self.until("the projections run", |soak| {
            soak.status(COUNTS)?;
            soak.status(GATES).map(drop)
        });
        while self.began.elapsed() < length || self.round == 0 {
            let mut deeds = DEEDS;
            deeds.shuffle(&mut self.random);
            for deed in deeds {
                self.act(deed);
                *self.done.entry(deed).or_default() += 1;
            }
            self.round += 1;
        }
    }

    fn act(&mut self, deed: Deed) {
        match deed {
            Deed::Swap => self.swap(),
            Deed::Rebuild => self.rebuild(),
            Deed::DeadLetters => self.dead_letters(),
            Deed::CutDatabase => self.cut += self.database.cut(),
            Deed::CutBrokers => self.cut += self.brokers.cut(),
            Deed::CutBoth => self.cut += self.database.cut() + self.brokers.cut(),
        }
    }

    /// Another one of the versions.
    fn swap(&mut self) {
        let wanted = version(self.random.random_range(0..VERSIONS));
        let file = self.platform.directory().join("next.wasm");
        std::fs::write(&file, wanted).unwrap();
        let file = file.display().to_string();
        self.until("a version is deployed", |soak| soak.ask(&["deploy", &file]).map(drop));
    }

    /// Another generation, which is shown to readers by itself.
    fn rebuild(&mut self) {
        let before =
            self.until("the live generation is known", |soak| soak.status(COUNTS))["generation"].clone();
        self.until("a rebuild begins", |soak| {
            let status = soak.status(COUNTS)?;
            let begun = status["generation"] != before
                || status["beside"].as_array().into_iter().flatten().any(|one| one["role"] == "building");
            if begun { Ok(()) } else { soak.ask(&["rebuild", COUNTS]).and(Err("it is asked for".into())) }
        });
        self.until("the new generation is live", |soak| {
            let status = soak.status(COUNTS)?;
            if status["generation"] == before { Err(status.to_string()) } else { Ok(()) }
        });
    }

    /// Events that fail, and others behind them; half of the keys are let go, and half of the failed events dropped.
    fn dead_letters(&mut self) {
        let round = self.round;
        let topic = self.platform.topic("step.v1");
        let key = |at: usize| format!("r{round}-{at}");
        let step = |at: usize, step: &str, gate: Option<&str>| {
            let payload = json!({"of": key(at), "step": step, "gate": gate});
            Record::new(&*topic, key(at), payload.to_string())
        };
        let gate = format!("gate-{round}");
        let records: Vec<Record> = (0..FAILING)
            .flat_map(|at| [step(at, "1", Some(&gate)), step(at, "2", None), step(at, "3", None)])
            .collect();
        self.platform.publish(&records);
        let letters = self.until("the events have failed", |soak| {
            let letters = soak.ask(&["dlq", "list", GATES])?;
            let letters = letters.as_array().cloned().unwrap_or_default();
            if letters.len() == FAILING { Ok(letters) } else { Err(format!("{} have", letters.len())) }
        });
        self.dead_letters += letters.len();
        for letter in letters.iter().take(FAILING / 2) {
            let letter = letter["id"].to_string();
            self.until("a dead letter is discarded", |soak| {
                let discarded = soak.ask(&["dlq", "discard", GATES, &letter, "--reason", "it is the soak's"]);
                match soak.ask(&["dlq", "show", GATES, &letter]) {
                    Err(said) if said.contains("has no dead letter") => Ok(()),
                    _ => discarded.and(Err("it is still there".into())),
                }
            });
        }
        let opened = Record::new(self.platform.topic("gate.v1"), &*gate, json!({"gate": gate}).to_string());
        self.platform.publish(&[opened]);
        self.until("nothing waits any more", |soak| {
            let status = soak.status(GATES)?;
            if status["dead_letters"] == 0 && status["counters"]["parked"] == 0 {
                return Ok(());
            }
            let _ = soak.ask(&["dlq", "retry", GATES, "--all"]);
            Err(format!("{} and {}", status["dead_letters"], status["counters"]))
        });
    }

    /// Nothing is lost or doubled: readers see as many events as were published.
    fn until_all_is_counted(&mut self, published: i64) {
        let last = self.until("every event is counted once", |soak| {
            let sum = "select coalesce(sum(events), 0)::text from counts.seen";
            let found = soak.platform.read_model().query(sum)[0][0].clone().unwrap_or_default();
            let found: i64 = found.parse().unwrap();
            assert!(found <= published, "{found} events are counted, and {published} were published");
            if found == published { Ok(found) } else { Err(format!("{found} of {published}")) }
        });
        say(&format!("{last} events, each counted once"));
        let trails = self.platform.read_model().query("select id, steps from gates.trail order by id");
        let right = |row: &Vec<Option<String>>| matches!(row[1].as_deref(), Some("1 2 3" | "2 3"));
        assert!(trails.iter().all(right), "{trails:?}");
        assert_eq!(trails.len(), self.dead_letters);
    }

    /// What `projector` prints as JSON; or what it says where it fails.
    fn ask(&self, arguments: &[&str]) -> Result<Value, String> {
        match self.platform.command(&[arguments, &["--output", "json"]].concat()) {
            (0, printed, _) => Ok(printed),
            (_, _, said) => Err(said),
        }
    }

    fn status(&self, projection: &str) -> Result<Value, String> {
        let status = self.ask(&["status", projection])?;
        let found = status["projections"].as_array().into_iter().flatten().next().cloned();
        found.ok_or_else(|| "it is not installed".to_owned())
    }

    /// Asks until it is so: connections may break at any moment.
    fn until<T>(&self, what: &str, mut ask: impl FnMut(&Soak) -> Result<T, String>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask(self) {
                Ok(found) => return found,
                Err(said) if Instant::now() > deadline => {
                    let status =
                        self.ask(&["status"]).map_or_else(|said| said, |status| format!("{status:#}"));
                    panic!(
                        "{what}: not within {PATIENCE:?} (round {}); last: {said}; status: {status}",
                        self.round
                    )
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }
}
