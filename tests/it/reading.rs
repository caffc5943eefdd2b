//! What the events of a batch ask for is read at once, in each of their rounds, and gives what one by
//! one would give.

use projector::batch::Delivery;
use projector::config::Limits;
use projector::event::{Event, Partition, Position};
use projector::outcome::Outcome;
use projector::plugin::Plugin;
use projector::project::{Keys, ask, resolve};
use projector_model::interpret::Row;
use projector_model::{LookupCall, Tables, Value};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{guest, load, seed};

const GENERATION: usize = 200;

fn birth(person: usize, parent: Option<usize>) -> Delivery {
    let parent = parent.map_or("null".to_owned(), |parent| format!("\"p{parent}\""));
    let event = Event {
        position: Position { partition: Partition::new("person.born.v1", 0), offset: person as i64 },
        topic: 0,
        timestamp_ms: None,
        key: None,
        value: Some(format!(r#"{{"id": "p{person}", "parent": {parent}}}"#).into_bytes()),
        headers: vec![],
    };
    Delivery { event, epoch: 1 }
}

/// Projects batches onto rows in memory; returns those rows, and how often they were read.
fn project(plugin: &Plugin, batches: &[&[Delivery]]) -> (Vec<Row>, usize) {
    let contract = &plugin.contract;
    let mut stored = Tables::new(contract);
    let mut reads = 0;
    for batch in batches {
        let answers = ask(plugin, batch).unwrap();
        let mut read = |calls: &[LookupCall]| {
            reads += 1;
            let find = |call: &LookupCall| {
                let row = stored.row(contract.lookups[usize::from(call.lookup)].table, &call.arguments);
                row.cloned().into_iter().collect()
            };
            Ok(calls.iter().map(find).collect())
        };
        let outcomes = resolve(plugin, batch, &answers, &[], Keys::default(), &mut read).unwrap();
        assert_eq!(outcomes.len(), batch.len());
        for outcome in outcomes {
            let Outcome::Apply(changes) = outcome else { panic!("{outcome:?}") };
            stored.apply_event(contract, &changes).unwrap();
        }
    }
    (stored.rows(0).map(|(_, row)| row.clone()).collect(), reads)
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
