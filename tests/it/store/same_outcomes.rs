//! Random projections that read, random events, batches of any size: on Postgres and on SQLite every event comes
//! to the same end, and every row to the same values and lineage, as in the model, one by one.
//!
//! `PROPTEST_CASES=100000 cargo xtask test -- --test it store::same_outcomes --nocapture` tries more of them, and prints
//! how far it is. Cases share projections and their schemas: only the rows are new. All cases of a projection come
//! one after the other, so that its prepared statements are used again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::env;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use projector::project::{Answered, FirstAnswers, Keys, Room, first_answers, resolve};
use projector::settle::{Isolate, isolate};
use projector_core::batch::Delivery;
use projector_core::event_failure::Failure;
use projector_core::outcome::Outcome;
use projector_model::interpret::Key;
use projector_model::{Contract, Tables};
use projector_store::{Store, Writes};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{AssertSqlSafe, Executor};
use tokio::runtime::{Handle, Runtime};

use super::home::{Home, Session};
use super::projection::{Projection, advance};
use super::random::Dice;
use super::rows::{self, Dump};
use super::scripted::{self, Fate, Scripted};

const CASES: u32 = 200;
/// Projections that the cases share: to install one takes longer than to try it.
const PROJECTIONS: u32 = 500;
/// How many calls a batch has: those with few are of one event each.
const MOST_CALLS: [usize; 4] = [usize::MAX, 25, 8, 0];

/// What rows may weigh that are found for an event, and for a batch: some of them weigh two hundred bytes.
const ROOMS: [(usize, usize); 4] = [(usize::MAX, usize::MAX), (usize::MAX, 1_000), (600, 2_000), (300, 0)];

/// How many calls a batch has, what it may find, and batches of events.
type Case = (usize, usize, Vec<Vec<Dice>>);

fn cases() -> impl Strategy<Value = Case> {
    let dice = vec(any::<u16>(), 0..=40).prop_map(Dice);
    (0..MOST_CALLS.len(), 0..ROOMS.len(), vec(vec(dice, 0..=12), 1..=3))
}

/// Cases that failed once, each with its projection.
fn failed_once() -> Vec<(u32, Case)> {
    vec![(351, (0, 3, vec![vec![Dice(vec![]), Dice(vec![0, 2570, 16861, 15254, 792, 3897, 1329, 7693])]]))]
}

#[test]
fn a_batch_brings_every_event_to_where_it_comes_one_by_one() -> Result<()> {
    let runtime = Runtime::new()?;
    let mut places = runtime.block_on(async {
        anyhow::Ok([Place::at(Home::postgres()?).await?, Place::at(Home::sqlite()?).await?])
    })?;
    let cases_to_try: u32 = env::var("PROPTEST_CASES").map_or(Ok(CASES), |asked| asked.parse())?;
    let of_each = cases_to_try.div_ceil(PROJECTIONS).max(1);
    // A run of few cases begins at another projection each time.
    let first: u32 = rand::rng().random_range(0..PROJECTIONS);
    let places = RefCell::new(&mut places);
    let is_equal = |number: u32, (most_calls, room, batches): Case| {
        let mut places = places.borrow_mut();
        let (of_event, of_batch) = ROOMS[room];
        let bounds = Bounds { most_calls: MOST_CALLS[most_calls], room: Room { of_event, of_batch } };
        runtime.block_on(async {
            for place in places.iter_mut() {
                place.compare(number.into(), bounds, &batches).await?;
            }
            anyhow::Ok(())
        })
    };
    for (number, case) in failed_once() {
        is_equal(number, case).with_context(|| format!("projection {number}"))?;
    }
    let (started, mut tried) = (Instant::now(), 0);
    for nth in 0..cases_to_try.div_ceil(of_each) {
        let number = (first + nth) % PROJECTIONS;
        let cases_now = of_each.min(cases_to_try - tried);
        let config = Config {
            cases: cases_now,
            max_shrink_iters: 2_000,
            // A case is about its projection: one that fails belongs into `failed_once`.
            failure_persistence: None,
            ..Config::default()
        };
        let outcome = TestRunner::new(config).run(&cases(), |case| {
            is_equal(number, case).map_err(|difference| TestCaseError::fail(format!("{difference:#}")))
        });
        match outcome {
            Ok(()) => tried += cases_now,
            Err(TestError::Fail(reason, case)) => panic!("projection {number}: {reason}\ncase: {case:?}"),
            Err(TestError::Abort(reason)) => panic!("projection {number}: {reason}"),
        }
        if tried == cases_to_try || nth % 50 == 49 {
            let rate = f64::from(tried) / started.elapsed().as_secs_f64();
            println!("{tried} of {cases_to_try} cases are equal, {rate:.1} a second");
        }
    }
    Ok(())
}

/// What a batch may use.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    most_calls: usize,
    room: Room,
}

/// A store with the projections that were tried in it.
struct Place {
    home: Home,
    store: Arc<dyn Store>,
    session: Session,
    installed: HashMap<u64, Projection>,
}

impl Place {
    async fn at(home: Home) -> Result<Self> {
        let (store, session) = (home.open().await?, home.session().await?);
        Ok(Self { home, store, session, installed: HashMap::new() })
    }

    /// Tries a case on empty tables.
    async fn compare(&mut self, number: u64, bounds: Bounds, batches: &[Vec<Dice>]) -> Result<()> {
        if !self.installed.contains_key(&number) {
            let mut rng = StdRng::seed_from_u64(number);
            let dice = Dice((0..150).map(|_| rng.random()).collect());
            let descriptor = scripted::descriptor(&format!("p-{number}"), &mut dice.throws());
            let contract = descriptor.check().map_err(|problems| anyhow::anyhow!("{problems}"))?;
            let projection = Projection::install(self.store.clone(), contract).await?;
            self.installed.insert(number, projection);
        }
        let projection = &self.installed[&number];
        let contract = &projection.deployment.contract;
        empty(&mut self.session, projection).await?;
        let bounds = Bounds { room: scripted::room(contract, bounds.room), ..bounds };
        let of_event = bounds.room.of_event;
        let first = projection.offset().await?;
        let mut offsets = first..;
        let mut delivery = |dice| {
            let offset = offsets.next().unwrap_or_default();
            scripted::delivery(offset, dice, of_event == usize::MAX)
        };
        let events: Vec<Vec<Delivery>> =
            batches.iter().map(|batch| batch.iter().map(&mut delivery).collect()).collect();
        let (expected, expected_rows) = one_by_one(projection, &events, of_event);
        let mut fates = Vec::new();
        for batch in &events {
            let settled = settle(projection, batch, bounds).await;
            fates.extend(settled.with_context(|| self.describe(contract, &expected))?);
        }
        ensure!(fates == expected, "{}\nand it was: {fates:#?}", self.describe(contract, &expected));
        let found = rows::within(&mut self.session, contract, &projection.deployment.generation).await?;
        ensure!(
            found == expected_rows,
            "{}\nthe rows should be: {expected_rows:#?}\nand are: {found:#?}",
            self.describe(contract, &expected)
        );
        Ok(())
    }

    fn describe(&self, contract: &Contract, expected: &[Fate]) -> String {
        format!("{}: {}\nit should be: {expected:#?}", self.home.url(), contract.descriptor.to_json())
    }
}

/// In one transaction, and in one message: a case takes a few milliseconds.
async fn empty(session: &mut Session, projection: &Projection) -> Result<()> {
    let schema = &projection.deployment.generation.schema;
    let tables = projection.deployment.contract.tables.iter().map(|table| &table.name);
    match session {
        Session::Postgres(session) => {
            let all: String = tables.map(|table| format!("delete from {schema}.{table};")).collect();
            session.execute(sqlx::raw_sql(AssertSqlSafe(all))).await.map(drop)?;
        }
        Session::Sqlite(session) => {
            let all: String = tables.map(|table| format!("delete from {schema}__{table};")).collect();
            let all = format!("begin immediate; {all} commit;");
            session.execute(sqlx::raw_sql(AssertSqlSafe(all))).await.map(drop)?;
        }
    }
    Ok(())
}

/// What the model makes of the events, and the rows then.
fn one_by_one(projection: &Projection, batches: &[Vec<Delivery>], of_event: usize) -> (Vec<Fate>, Vec<Dump>) {
    let (contract, digest) = (&projection.deployment.contract, &projection.deployment.digest);
    let mut tables = Tables::new(contract);
    let mut writers = rows::Writers::new();
    let mut fates = Vec::new();
    for Delivery { event, .. } in batches.iter().flatten() {
        let mark = tables.mark();
        fates.push(scripted::one_by_one(contract, &mut tables, event, of_event));
        let written: Vec<(usize, Key)> =
            tables.changed_since(mark).map(|(table, key)| (table, key.clone())).collect();
        writers.extend(written.into_iter().map(|row| (row, format!("{} by {digest}", event.position))));
    }
    let rows = rows::of_model(contract, &tables, &writers);
    (fates, rows)
}

/// Settles a batch as a lane does: in as many transactions as it takes.
async fn settle(projection: &Projection, batch: &[Delivery], bounds: Bounds) -> Result<Vec<Fate>> {
    let contract = &projection.deployment.contract;
    let scripted = || Scripted::new(contract, bounds.most_calls, bounds.room);
    let mut fates = Vec::new();
    let mut most = batch.len();
    // Of the first event of those that remain.
    let mut failed: Option<Failure> = None;
    while fates.len() < batch.len() {
        let rest = &batch[fates.len()..];
        let rest = &rest[..most.min(rest.len())];
        let mut answers = first_answers(&mut scripted(), rest).expect("it answers");
        if let Some(failure) = &failed {
            answers[0] = FirstAnswers::failed(failure.clone());
        }
        let mut tx = projection.begin().await?;
        let outcomes = tokio::task::block_in_place(|| {
            let mut read = |calls: &[_], most_bytes| Handle::current().block_on(tx.read(calls, most_bytes));
            let mut scripted = scripted();
            resolve(
                &mut scripted,
                Answered { events: &rest[..answers.len()], answers: &answers, duplicates: &[] },
                Keys::default(),
                &mut read,
            )
        });
        let outcomes = outcomes.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        ensure!(!outcomes.is_empty(), "a batch without an outcome");
        let rest = &rest[..outcomes.len()];
        let changes = outcomes.iter().enumerate().filter_map(|(at, outcome)| match outcome {
            Outcome::Apply(changes) => Some((at, &changes[..])),
            _ => None,
        });
        let writes = Writes {
            advances: vec![advance(rest[0].event.position.offset, rest.len() as i64)],
            positions: rest.iter().map(|delivery| &delivery.event.position).collect(),
            changes: changes.collect(),
            ..Writes::default()
        };
        match tx.write(&writes).await {
            Ok(_) => {
                tx.commit().await?;
                fates.extend(outcomes.into_iter().map(fate));
                (most, failed) = (batch.len(), None);
            }
            Err(error) => match isolate(error, rest.len())? {
                Isolate::First(failure) if failed.is_some() => bail!("refused without the event: {failure}"),
                Isolate::First(failure) => failed = Some(failure),
                Isolate::Cut(events) => most = events,
            },
        }
    }
    Ok(fates)
}

fn fate(outcome: Outcome<'_>) -> Fate {
    match outcome {
        Outcome::Apply(changes) => Fate::Applied(changes.into_owned()),
        Outcome::Ignore { .. } => Fate::Ignored,
        Outcome::Dead { .. } | Outcome::Park(_) | Outcome::Wait { .. } => Fate::Dead,
    }
}
