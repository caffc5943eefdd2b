//! Random events, gates, retries, discards and restarts, through a real plugin: at every moment the rows,
//! the counters and what waits are those of a queue for each key; and at the end, when every gate is open and
//! every dead letter retried, each key's trail is that of its events in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use projector::dead_letter_log::DeadLetterLog;
use projector::project::{self, Caller};
use projector::settle::{Released, Settler};
use projector_config::Limits;
use projector_core::batch::{BatchLimits, Delivery};
use projector_core::checkpoint::Beginning;
use projector_core::counters::Counters;
use projector_core::event::{Event, Partition, Position};
use projector_core::failure_policy::{Failures, Flood};
use projector_kafka::KafkaAdmin;
use projector_model::{LookupCall, Value};
use projector_sandbox::Plugin;
use projector_store::dead_letters::DeadLetterFilter;
use projector_store::operations::{DeadLetterAction, NewOperations, OpenOperation};
use projector_store::{Requester, WriteTarget};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use serde_json::json;
use tokio::runtime::Runtime;

use super::home::Home;
use super::projection::{offer, topics};
use crate::harness::{guest, load};

/// Topics of the plugin, by their places: two that are keyed alike, and the gates.
const TOPICS: [&str; 3] = ["step.v1", "step.v2", "gate.v1"];
const KEYS: u8 = 3;
const GATES: u8 = 4;

#[derive(Debug, Clone)]
enum Deed {
    /// Steps of one topic, in batches of at most so many: whose, and behind which gate.
    Steps {
        topic: bool,
        steps: Vec<(u8, Option<u8>)>,
        batch: usize,
    },
    Open(u8),
    /// One of the dead letters there are, in transactions of at most so many.
    Retry {
        letter: prop::sample::Index,
        most: usize,
    },
    Discard {
        letter: prop::sample::Index,
        most: usize,
    },
    /// All that there are, asked for at once, in transactions of at most so many.
    All {
        discard: bool,
        most: usize,
    },
    Restart,
}

fn deed() -> impl Strategy<Value = Deed> {
    let gate = prop::option::weighted(0.4, 0..GATES);
    let steps = prop::collection::vec((0..KEYS, gate), 1..8);
    prop_oneof![
        5 => (any::<bool>(), steps, 1usize..6).prop_map(|(topic, steps, batch)| Deed::Steps { topic, steps, batch }),
        1 => (0..GATES).prop_map(Deed::Open),
        3 => (any::<prop::sample::Index>(), 1usize..5).prop_map(|(letter, most)| Deed::Retry { letter, most }),
        1 => (any::<prop::sample::Index>(), 1usize..5).prop_map(|(letter, most)| Deed::Discard { letter, most }),
        2 => (prop::bool::weighted(0.2), 1usize..5).prop_map(|(discard, most)| Deed::All { discard, most }),
        1 => Just(Deed::Restart),
    ]
}

/// One queue for each key, and nothing else.
#[derive(Default)]
struct Model {
    open: BTreeSet<u8>,
    trails: BTreeMap<u8, Vec<String>>,
    /// Of a key whose first event failed: that one, and those behind it.
    waiting: BTreeMap<u8, VecDeque<(String, Option<u8>)>>,
    read: i64,
    skipped: i64,
}

impl Model {
    fn step(&mut self, key: u8, step: String, gate: Option<u8>) {
        self.read += 1;
        let passes = self.passes(gate);
        match self.waiting.get_mut(&key) {
            Some(queue) => queue.push_back((step, gate)),
            None if passes => self.trails.entry(key).or_default().push(step),
            None => drop(self.waiting.insert(key, VecDeque::from([(step, gate)]))),
        }
    }

    fn passes(&self, gate: Option<u8>) -> bool {
        gate.is_none_or(|gate| self.open.contains(&gate))
    }

    fn release(&mut self, key: u8, discard: bool) {
        let mut queue = self.waiting.remove(&key).unwrap_or_default();
        if discard {
            queue.pop_front();
            self.skipped += 1;
        }
        while let Some((step, gate)) = queue.pop_front() {
            if !self.passes(gate) {
                queue.push_front((step, gate));
                self.waiting.insert(key, queue);
                return;
            }
            self.trails.entry(key).or_default().push(step);
        }
    }

    fn counters(&self) -> Counters {
        let dead = self.waiting.len() as i64;
        let parked = self.waiting.values().map(|queue| queue.len() as i64 - 1).sum::<i64>();
        let (read, skipped) = (self.read, self.skipped);
        let applied = read - dead - parked - skipped;
        Counters { read, applied, parked, dead, skipped, ..Counters::default() }
    }
}

struct World<'h> {
    home: &'h Home,
    /// There is none while the host is started again.
    settler: Option<Settler>,
    /// Nothing was left in it.
    log: KafkaAdmin,
    model: Model,
    offsets: [i64; 3],
}

impl<'h> World<'h> {
    async fn new(home: &'h Home, plugin: &Plugin) -> Result<World<'h>> {
        let store = home.open().await?;
        let generation = offer(&*store, &plugin.digest, &plugin.contract).await?.generation;
        for topic in TOPICS {
            store.begin_partition(&generation, &Partition::new(topic, 0), &Beginning::at(0)).await?;
        }
        let settler = Settler {
            deployment: WriteTarget {
                generation,
                digest: plugin.digest.as_str().into(),
                contract: plugin.contract.clone(),
                topics: topics(&plugin.contract),
            },
            plugin: plugin.clone(),
            store,
            failures: Failures { consecutive: usize::MAX, ratio: 1.0, ..Failures::default() },
            on_trial: None,
            dead_letters: DeadLetterLog::default(),
        };
        let kafka: projector_config::Kafka = toml::from_str("brokers = 'localhost:1'")?;
        let log = KafkaAdmin::open(&kafka)?;
        Ok(World { home, settler: Some(settler), log, model: Model::default(), offsets: [0; 3] })
    }

    fn settler(&self) -> &Settler {
        self.settler.as_ref().expect("the host runs")
    }

    fn delivery(&mut self, topic: usize, key: &str, payload: serde_json::Value) -> Delivery {
        let name: Arc<str> = TOPICS[topic].into();
        let place = self.settler().deployment.topics.places(&name);
        let offset = self.offsets[topic];
        self.offsets[topic] += 1;
        let event = Event {
            position: Position { partition: Partition { topic: name.clone(), number: 0 }, offset },
            topic: place[0],
            timestamp_ms: Some(1_700_000_000_000 + offset),
            key: Some(key.into()),
            value: Some(payload.to_string().into_bytes()),
            also: Vec::new(),
            topic_name: name,
            oversize_bytes: None,
            headers: Vec::new(),
        };
        Delivery { event, epoch: 1 }
    }

    async fn settle(&self, mut events: &[Delivery]) -> Result<()> {
        while let Some(first) = events.first() {
            let answers = tokio::task::block_in_place(|| project::ask(&self.settler().plugin, events))
                .map_err(|error| anyhow::anyhow!("{error:?}"))?;
            let asked = &events[..answers.len()];
            let checkpoint = |_: &Partition| first.event.position.offset;
            let mut caller = Caller::new(&self.settler().plugin);
            let attempt =
                self.settler().attempt(&mut caller, asked, &answers, &checkpoint, &Flood::default()).await;
            attempt.result.map_err(|error| anyhow::anyhow!("{error:?}"))?;
            events = &events[attempt.events..];
        }
        Ok(())
    }

    async fn letters(&self) -> Result<Vec<(i64, u8)>> {
        let filter = DeadLetterFilter { most: i64::MAX, ..DeadLetterFilter::default() };
        let letters = self.settler().store.dead_letters(&filter).await?;
        letters
            .iter()
            .map(|letter| {
                let key = letter.event.key.as_deref().and_then(|key| key.first()).context("it has a key")?;
                let parked = self.model.waiting.get(&(key - b'a')).map(|queue| queue.len() as i64 - 1);
                ensure!(letter.parked == parked, "{} wait, expected {parked:?}", letter.parked.unwrap_or(-1));
                Ok((letter.id, key - b'a'))
            })
            .collect()
    }

    async fn release(&mut self, letter: i64, key: u8, action: DeadLetterAction, most: usize) -> Result<()> {
        let operation = NewOperations {
            action,
            dead_letters: vec![letter],
            dry_run: false,
            requester: Requester { by: "a test".into(), reason: Some("it says so".into()) },
        };
        let id = self.settler().store.request(&operation).await?[&letter];
        let control = self.settler().store.control_state().await?;
        let open: OpenOperation =
            control.into_iter().flat_map(|control| control.open).next().context("it is open")?;
        ensure!(open.id == id && open.action == action);
        let limits = BatchLimits { events: most, bytes: 1 << 20 };
        while self.settler().release(&open, limits, &self.log).await? == Released::More {}
        ensure!(self.settler().store.results(&[id]).await?.contains_key(&id), "the result is stored");
        self.model.release(key, action == DeadLetterAction::Discard);
        Ok(())
    }

    /// As a lane does it: those together that no event waits behind, then the others one by one.
    async fn release_all(&mut self, action: DeadLetterAction, most: usize) -> Result<()> {
        let letters = self.letters().await?;
        let asked = NewOperations {
            action,
            dead_letters: letters.iter().map(|(letter, _)| *letter).collect(),
            dry_run: false,
            requester: Requester { by: "a test".into(), reason: Some("it says so".into()) },
        };
        let operations = self.settler().store.request(&asked).await?;
        let control = self.settler().store.control_state().await?;
        let open: Vec<OpenOperation> = control.into_iter().flat_map(|control| control.open).collect();
        ensure!(open.len() == letters.len() && operations.len() == letters.len());
        let limits = BatchLimits { events: most, bytes: 1 << 20 };
        let ids: Vec<i64> = open.iter().map(|operation| operation.id).collect();
        let done = self.settler().release_many(&ids, limits).await?;
        for (letter, key) in &letters {
            let is_lone = self.model.waiting.get(key).is_some_and(|queue| queue.len() == 1);
            ensure!(is_lone == done.contains(&operations[letter]), "the letter {letter} is done, or is not");
        }
        for operation in open.iter().filter(|operation| !done.contains(&operation.id)) {
            while self.settler().release(operation, limits, &self.log).await? == Released::More {}
        }
        ensure!(self.settler().store.results(&ids).await?.len() == ids.len(), "the results are stored");
        letters.iter().for_each(|(_, key)| self.model.release(*key, action == DeadLetterAction::Discard));
        Ok(())
    }

    async fn act(&mut self, deed: &Deed) -> Result<()> {
        match deed {
            Deed::Steps { topic, steps, batch } => {
                let topic = usize::from(*topic);
                let mut events = Vec::new();
                for (key, gate) in steps {
                    let step = format!("{topic}.{}", self.offsets[topic]);
                    let of = char::from(b'a' + key).to_string();
                    let gate_name = gate.map(|gate| format!("gate {gate}"));
                    events.push(self.delivery(
                        topic,
                        &of,
                        json!({"of": of, "step": step, "gate": gate_name}),
                    ));
                    self.model.step(*key, step, *gate);
                }
                for batch in events.chunks(*batch) {
                    self.settle(batch).await?;
                }
            }
            Deed::Open(gate) => {
                let name = format!("gate {gate}");
                let event = self.delivery(2, &name, json!({"gate": name}));
                self.model.read += 1;
                self.model.open.insert(*gate);
                self.settle(&[event]).await?;
            }
            Deed::Retry { letter, most } | Deed::Discard { letter, most } => {
                let letters = self.letters().await?;
                if !letters.is_empty() {
                    let (id, key) = letters[letter.index(letters.len())];
                    let action = if matches!(deed, Deed::Retry { .. }) {
                        DeadLetterAction::Retry
                    } else {
                        DeadLetterAction::Discard
                    };
                    self.release(id, key, action, *most).await?;
                }
            }
            Deed::All { discard, most } => {
                let action = if *discard { DeadLetterAction::Discard } else { DeadLetterAction::Retry };
                self.release_all(action, *most).await?;
            }
            Deed::Restart => {
                let Settler { deployment, plugin, store, failures, .. } =
                    self.settler.take().context("the host runs")?;
                store.close().await;
                // SQLite's file belongs to one host, and is let go with it.
                drop(store);
                let store = loop {
                    match self.home.open().await {
                        // A process that another test is just starting holds it too, for a moment.
                        Err(error) if error.to_string().contains("another host") => {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        opened => break opened?,
                    }
                };
                let dead_letters = DeadLetterLog::default();
                self.settler =
                    Some(Settler { deployment, plugin, store, failures, on_trial: None, dead_letters });
            }
        }
        self.check().await
    }

    async fn check(&self) -> Result<()> {
        let contract = &self.settler().deployment.contract;
        let lookup = contract.lookups.iter().position(|lookup| contract.tables[lookup.table].name == "trail");
        let lookup = lookup.context("the plugin reads trails")? as u16;
        let call =
            |key: u8| LookupCall { lookup, arguments: vec![Value::Text(char::from(b'a' + key).to_string())] };
        let mut tx = self.settler().store.begin(&self.settler().deployment).await?;
        let found = tx.read(&(0..KEYS).map(call).collect::<Vec<_>>(), usize::MAX).await?;
        drop(tx);
        for (key, rows) in (0..KEYS).zip(found) {
            let found = rows.iter().flatten().next().map(|row| row.values[1].clone());
            let expected = self.model.trails.get(&key).map(|steps| Value::Text(steps.join(" ")));
            ensure!(found == expected, "the trail of {key} is {found:?}, expected {expected:?}");
        }
        let overview = self.settler().store.overview().await?;
        let mut counters = Counters::default();
        overview[0].partitions.iter().for_each(|partition| counters += partition.counters);
        let expected = self.model.counters();
        ensure!(counters == expected, "{counters:?}, expected {expected:?}");
        let by_code = overview[0].partitions.iter().flat_map(|partition| partition.dead_by_code.values());
        ensure!(by_code.sum::<i64>() == counters.dead, "dead by code");
        Ok(())
    }

    async fn run(mut self, deeds: &[Deed]) -> Result<()> {
        for (at, deed) in deeds.iter().enumerate() {
            self.act(deed).await.with_context(|| format!("deed {at}: {deed:?}"))?;
        }
        for gate in 0..GATES {
            self.act(&Deed::Open(gate)).await?;
        }
        while let Some((id, key)) = self.letters().await?.first().copied() {
            self.release(id, key, DeadLetterAction::Retry, 2).await?;
        }
        self.check().await?;
        ensure!(self.model.waiting.is_empty(), "something waits still");
        self.settler().store.close().await;
        Ok(())
    }
}

fn prove(cases: u32, home: impl Fn() -> Result<Home>) {
    let runtime = Runtime::new().unwrap();
    let plugin = load(&guest("gates-guest"), &Limits::default());
    // Cases that failed are kept, to be tried first, in tests/proptest-regressions.
    let config = Config { cases, max_shrink_iters: 200, source_file: Some(file!()), ..Config::default() };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(deed(), 1..25), |deeds| {
        runtime.block_on(async {
            let home = home().expect("a database");
            let case = async { World::new(&home, &plugin).await?.run(&deeds).await };
            case.await.map_err(|difference| TestCaseError::fail(format!("{difference:#}")))
        })
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, deeds)) => panic!("{reason}\n{deeds:#?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

#[test]
fn what_waits_ends_as_if_it_had_never_failed_on_sqlite() {
    prove(150, Home::sqlite);
}

#[test]
fn what_waits_ends_as_if_it_had_never_failed_on_postgres() {
    prove(25, Home::postgres);
}
