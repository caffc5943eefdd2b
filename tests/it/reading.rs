//! What the events of a batch ask for is read at once, in each of their rounds, and gives what one by
//! one would give.

use std::time::Duration;

use projector::project::{Answered, Caller, Keys, ask, resolve};
use projector_config::{BatchBudget, EventLimits, Limits};
use projector_core::batch::Delivery;
use projector_core::failure::FailureKind;
use projector_core::outcome::Outcome;
use projector_model::interpret::Row;
use projector_model::{LookupCall, Tables, Value};
use projector_sandbox::Plugin;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{event, guest, load, seed};

const GENERATION: usize = 200;

fn birth(person: usize, parent: Option<usize>) -> Delivery {
    let parent = parent.map_or("null".to_owned(), |parent| format!("\"p{parent}\""));
    let born = format!(r#"{{"id": "p{person}", "parent": {parent}}}"#);
    Delivery { event: event(person as i64, &born), epoch: 1 }
}

/// Projects batches onto rows in memory; returns those rows, and how often they were read.
fn project(plugin: &Plugin, batches: &[&[Delivery]]) -> (Vec<Row>, usize) {
    let (rows, reads, projected) = project_in_part(plugin, batches);
    assert!(projected.iter().copied().eq(batches.iter().map(|batch| batch.len())));
    (rows, reads)
}

/// Where a batch ends early, the next one begins with what remains of it. Returns also how many events
/// each had in the end.
fn project_in_part(plugin: &Plugin, batches: &[&[Delivery]]) -> (Vec<Row>, usize, Vec<usize>) {
    let contract = &plugin.contract;
    let mut stored = Tables::new(contract);
    let mut reads = 0;
    let mut projected = Vec::new();
    let mut remaining = batches.iter().copied();
    let mut next = remaining.next();
    while let Some(batch) = next {
        let answers = ask(plugin, batch).unwrap();
        let asked = &batch[..answers.len()];
        let mut read = |calls: &[LookupCall], mut most_bytes: usize| {
            reads += 1;
            let find = |call: &LookupCall| {
                let row = stored.row(contract.lookups[usize::from(call.lookup)].table, &call.arguments);
                most_bytes = most_bytes.checked_sub(row.map_or(0, Row::size_bytes))?;
                Some(row.cloned().into_iter().collect())
            };
            Ok(calls.iter().map(find).collect())
        };
        let outcomes = resolve(
            &mut Caller::new(plugin),
            Answered { events: asked, answers: &answers, duplicates: &[] },
            Keys::default(),
            &mut read,
        )
        .unwrap();
        projected.push(outcomes.len());
        next = Some(&batch[outcomes.len()..]).filter(|rest| !rest.is_empty()).or_else(|| remaining.next());
        for outcome in outcomes {
            let Outcome::Apply(changes) = outcome else { panic!("{outcome:?}") };
            stored.apply_event(contract, &changes).unwrap();
        }
    }
    (stored.rows(0).map(|(_, row)| row.clone()).collect(), reads, projected)
}

/// The last of four generations in one batch: each round finds the rows of another generation.
#[test]
fn a_batch_is_read_once_for_each_round_and_comes_out_as_one_by_one() {
    let plugin = load(&guest("ancestors-guest"), &Limits::default());
    let mut rng = StdRng::seed_from_u64(seed(51));
    let births: Vec<Delivery> = (0..4 * GENERATION)
        .map(|person| {
            let before = (person / GENERATION).checked_sub(1);
            birth(person, before.map(|before| before * GENERATION + rng.random_range(0..GENERATION)))
        })
        .collect();
    let (before, batch) = births.split_at(3 * GENERATION);
    let one_by_one: Vec<&[Delivery]> = births.chunks(1).collect();
    let first: Vec<&[Delivery]> = before.chunks(1).collect();

    let (expected, _) = project(&plugin, &one_by_one);
    let with_ancestor = expected.iter().filter(|row| row.values[2] != Value::Null).count();
    assert_eq!(with_ancestor, GENERATION);
    let (_, reads_before) = project(&plugin, &first);
    let (found, reads) = project(&plugin, &[&first[..], &[batch]].concat());
    assert_eq!(found, expected);
    assert_eq!(reads - reads_before, 3, "reads of a batch of {}", batch.len());
}

/// Each event is shown another row in its turn than it was shown ahead, because the one before it
/// writes that row: it is called again.
#[test]
fn what_was_foreseen_in_vain_is_asked_again_in_its_turn() {
    let plugin = load(&guest("ancestors-guest"), &Limits::default());
    let births: Vec<Delivery> = (0..50_usize).map(|person| birth(person, person.checked_sub(1))).collect();
    let one_by_one: Vec<&[Delivery]> = births.chunks(1).collect();
    let (found, reads) = project(&plugin, &[&births]);
    assert_eq!(found, project(&plugin, &one_by_one).0);
    assert_eq!(reads, 1, "all that later rounds ask for was read in the first");
}

/// However little of a batch its fuel, its time or its bytes are enough for: what remains begins the next one.
#[test]
fn a_batch_ends_when_it_has_used_what_it_may_and_comes_out_as_one_by_one() {
    const BIRTHS: usize = 60;
    // Each needs rows of all before it, three rounds of them.
    let births: Vec<Delivery> = (0..BIRTHS).map(|person| birth(person, person.checked_sub(1))).collect();
    let component = guest("ancestors-guest");
    let plugin = load(&component, &Limits::default());
    let one_by_one: Vec<&[Delivery]> = births.chunks(1).collect();
    let (expected, _) = project(&plugin, &one_by_one);
    let in_batches = |batch: BatchBudget| {
        let limits = Limits { batch, ..Limits::default() };
        let (found, _, projected) = project_in_part(&load(&component, &limits), &[&births]);
        assert_eq!(found, expected);
        println!("{projected:?}");
        projected
    };
    let most = BatchBudget::default();
    assert_eq!(in_batches(most.clone()), [BIRTHS]);
    assert_eq!(in_batches(BatchBudget { fuel: 0, ..most.clone() }), [1; BIRTHS]);
    assert_eq!(in_batches(BatchBudget { time: Duration::ZERO, ..most.clone() }), [1; BIRTHS]);
    assert_eq!(in_batches(BatchBudget { bytes: 0, ..most.clone() }), [1; BIRTHS]);
    for budget in [
        BatchBudget { fuel: 1_000_000, ..most.clone() },
        // Answers of some hundred bytes each, and a row for the next event.
        BatchBudget { bytes: 4_000, ..most },
    ] {
        let some = in_batches(budget);
        assert!((4..BIRTHS / 2).contains(&some.len()), "{some:?}");
    }
}

#[test]
fn an_event_that_finds_more_than_it_may_fails_and_no_other() {
    let births = [birth(0, None), birth(1, Some(0)), birth(2, None)];
    let event = EventLimits { found_bytes: 100, ..EventLimits::default() };
    let plugin = load(&guest("ancestors-guest"), &Limits { event, ..Limits::default() });
    let answers = ask(&plugin, &births).unwrap();
    let mut read = |calls: &[LookupCall], _: usize| Ok(vec![Some(Vec::new()); calls.len()]);
    let outcomes = resolve(
        &mut Caller::new(&plugin),
        Answered { events: &births, answers: &answers, duplicates: &[] },
        Keys::default(),
        &mut read,
    )
    .unwrap();
    let [Outcome::Apply(_), Outcome::Dead { failure, .. }, Outcome::Apply(_)] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!((failure.kind, &*failure.code), (FailureKind::Limit, "found"));
    assert!(failure.detail.contains("limits.found-bytes"), "{failure}");
}

/// The first calls are made ahead, and end a batch just as those with rows do.
#[test]
fn no_more_is_asked_ahead_than_a_batch_may_use() {
    let births: Vec<Delivery> = (0..9).map(|person| birth(person, None)).collect();
    let most = BatchBudget::default();
    for batch in [BatchBudget { fuel: 0, ..most.clone() }, BatchBudget { bytes: 0, ..most }] {
        let plugin = load(&guest("ancestors-guest"), &Limits { batch, ..Limits::default() });
        assert_eq!(ask(&plugin, &births).unwrap().len(), 1);
    }
    let plugin = load(&guest("ancestors-guest"), &Limits::default());
    assert_eq!(ask(&plugin, &births).unwrap().len(), births.len());
}
