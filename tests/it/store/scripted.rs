//! A projection that reads: random lookups beside random statements, and a twin of a plugin that answers as dice
//! and all rows have it that it is shown. And what becomes of its events one by one, as the model says.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use projector::project::{FirstAnswer, ProjectError, Respondent, Room};
use projector_core::batch::Delivery;
use projector_core::event::{Event, Position};
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_model::descriptor::{Descriptor, Lookup, Table, Topic};
use projector_model::interpret::Row;
use projector_model::{Change, Contract, LookupCall, Tables, Type, Value};
use projector_sandbox::{Answer, Found};

use super::projection::partition;
use super::random::{self, Dice, Throws};
use super::rows;

/// How often an event may ask for rows.
const ROUNDS: usize = 3;

/// What becomes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Applied(Vec<Change>),
    Ignored,
    Dead,
}

/// A random projection with one to three lookups, and two topics whose events may do all of it.
pub(super) fn descriptor(name: &str, throws: &mut Throws<'_>) -> Descriptor {
    let mut descriptor = random::descriptor(name, throws);
    descriptor.lookups =
        (0..1 + throws.below(3)).map(|at| lookup(format!("l{at}"), &descriptor.tables, throws)).collect();
    let lookups: Vec<String> = descriptor.lookups.iter().map(|lookup| lookup.name.clone()).collect();
    let statements = descriptor.topics[0].statements.clone();
    let topic = |name: &str| Topic {
        name: name.into(),
        statements: statements.clone(),
        lookups: lookups.clone(),
        event_id: None,
        ordering_group: None,
        wait_seconds: None,
    };
    descriptor.topics = vec![topic("t"), topic("u")];
    descriptor
}

fn lookup(name: String, tables: &[Table], throws: &mut Throws<'_>) -> Lookup {
    let table = throws.pick(tables);
    let by = match throws.below(3) {
        0 => table.key.clone(),
        1 => table.key.iter().rev().cloned().collect(),
        _ => vec!["grp".into()],
    };
    let mut columns: Vec<String> =
        table.columns.iter().map(|column| column.name.clone()).filter(|_| !throws.one_in(3)).collect();
    if columns.is_empty() {
        columns.push("version".into());
    }
    let limit = if by == ["grp"] { 1 + throws.below(3) as u32 } else { 1 };
    Lookup { name, table: table.name.clone(), by, columns, limit }
}

/// What events may find of these tables. How much room a document takes, each database says for itself.
pub(super) fn room(contract: &Contract, most: Room) -> Room {
    let mut columns = contract.lookups.iter().flat_map(|lookup| &contract.tables[lookup.table].columns);
    match columns.any(|column| column.ty == Type::Json) {
        true => Room { of_event: usize::MAX, ..most },
        false => most,
    }
}

/// An event whose value is its dice; one in four belongs to both topics, where that is wanted.
pub(super) fn delivery(offset: i64, Dice(numbers): &Dice, may_be_of_both: bool) -> Delivery {
    let of_both = may_be_of_both && numbers.first().is_some_and(|number| number % 4 == 3);
    let event = Event {
        position: Position { partition: partition(), offset },
        topic: 0,
        also: if of_both { vec![1] } else { Vec::new() },
        topic_name: "t".into(),
        timestamp_ms: None,
        key: None,
        value: Some(numbers.iter().flat_map(|number| number.to_le_bytes()).collect()),
        oversize_bytes: None,
        headers: Vec::new(),
    };
    Delivery { event, epoch: 1 }
}

/// Answers until its calls are used up, as a plugin does until its fuel is.
pub(super) struct Scripted {
    contract: Arc<Contract>,
    calls: usize,
    most_calls: usize,
    room: Room,
}

impl Scripted {
    pub(super) fn new(contract: &Arc<Contract>, most_calls: usize, room: Room) -> Self {
        Self { contract: contract.clone(), calls: 0, most_calls, room }
    }
}

impl Respondent for Scripted {
    fn contract(&self) -> &Arc<Contract> {
        &self.contract
    }

    fn call(&mut self, event: &Event, found: &[Found]) -> Result<FirstAnswer, ProjectError> {
        self.calls += 1;
        Ok(answer(&self.contract, event, found))
    }

    fn has_used(&self, part: f64) -> bool {
        self.calls as f64 >= part * self.most_calls as f64
    }

    fn room(&self) -> Room {
        self.room
    }
}

/// A pure function of the event and of every value that is found for it.
fn answer(contract: &Contract, event: &Event, found: &[Found]) -> FirstAnswer {
    let bytes = event.value.as_deref().unwrap_or_default();
    let dice =
        Dice(bytes.chunks_exact(2).skip(1).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect());
    let throws = &mut dice.throws();
    let rounds = *throws.pick(&[0, 1, 1, 1, 2, 3, 4]);
    let in_a_round = 1 + throws.below(2);
    let seen = digest(event.topic, found);
    let dice = Dice(dice.0.iter().skip(2).map(|number| number.wrapping_add(seen)).collect());
    let throws = &mut dice.throws();
    if found.len() < rounds * in_a_round {
        return Ok(Answer::Needs((0..in_a_round).map(|_| call(contract, throws)).collect()));
    }
    match throws.below(10) {
        8 => Ok(Answer::Ignored { code: "of no use".into(), detail: String::new() }),
        9 => Err(Failure::new(FailureKind::Rejected, "not to be had", "")),
        _ => Ok(Answer::Changes(random::event(contract, &Dice(dice.0.iter().skip(1).copied().collect())))),
    }
}

/// Documents count by what they mean: Postgres writes them in its own way.
fn digest(topic: u16, found: &[Found]) -> u16 {
    let mut hasher = DefaultHasher::new();
    topic.hash(&mut hasher);
    for (call, rows) in found {
        call.hash(&mut hasher);
        for row in rows {
            row.iter().map(rows::shown).collect::<Vec<_>>().hash(&mut hasher);
        }
    }
    // An event that has seen nothing is as its dice are, which is what can be shrunk.
    if found.is_empty() && topic == 0 { 0 } else { hasher.finish() as u16 }
}

fn call(contract: &Contract, throws: &mut Throws<'_>) -> LookupCall {
    let number = throws.below(contract.lookups.len());
    let lookup = &contract.lookups[number];
    let columns = &contract.tables[lookup.table].columns;
    let arguments = lookup.by.iter().map(|column| random::value(columns[*column].ty, true, throws)).collect();
    let mut call = LookupCall { lookup: number as u16, arguments };
    contract.fit_lookup(&mut call).expect("made to fit");
    call
}

/// Brings the rows to where they are after an event, which may find so many bytes of them.
pub(super) fn one_by_one(contract: &Contract, tables: &mut Tables, event: &Event, most_bytes: usize) -> Fate {
    let mark = tables.mark();
    let mut fate = Fate::Ignored;
    for nth in 0..event.topic_count() {
        let written = if let Fate::Applied(changes) = &fate { &changes[..] } else { &[] };
        let next = match led_to(contract, tables, &event.as_of(nth), written, most_bytes) {
            Fate::Applied(changes) if tables.apply_event(contract, &changes).is_err() => Fate::Dead,
            next => next,
        };
        fate = match (fate, next) {
            (_, Fate::Dead) => {
                tables.undo_to(mark);
                return Fate::Dead;
            }
            (Fate::Applied(before), Fate::Applied(changes)) => Fate::Applied([before, changes].concat()),
            (before, Fate::Ignored) => before,
            (_, applied) => applied,
        };
    }
    fate
}

/// What an event leads to as one of its topics, `written` being the changes of those before.
fn led_to(
    contract: &Contract,
    tables: &Tables,
    event: &Event,
    written: &[Change],
    most_bytes: usize,
) -> Fate {
    let mut found: Vec<Found> = Vec::new();
    let mut bytes = 0;
    for round in 0..=ROUNDS {
        let calls = match answer(contract, event, &found) {
            Ok(Answer::Changes(changes)) => return Fate::Applied(changes),
            Ok(Answer::Ignored { .. }) => return Fate::Ignored,
            Err(_) => return Fate::Dead,
            Ok(Answer::Needs(_)) if round == ROUNDS => return Fate::Dead,
            Ok(Answer::Needs(calls)) => calls,
        };
        // "Not yet", of a topic whose events do not wait.
        if LookupCall::means_not_yet(&calls, found.iter().map(|(shown, _)| shown)) {
            return Fate::Dead;
        }
        // No row is found by other columns than the key in a table that the event itself has changed.
        let is_out_of_reach = |call: &LookupCall| {
            let lookup = &contract.lookups[usize::from(call.lookup)];
            let writes =
                |change: &Change| contract.writes[usize::from(change.statement)].table == lookup.table;
            !lookup.is_by_key(&contract.tables[lookup.table]) && written.iter().any(writes)
        };
        if calls.iter().any(is_out_of_reach) {
            return Fate::Dead;
        }
        for call in calls {
            let rows = tables.lookup(contract, &call);
            bytes += read_bytes(contract, tables, &call, &rows);
            found.push((call, rows));
        }
        if bytes > most_bytes {
            return Fate::Dead;
        }
    }
    unreachable!("the last round returns")
}

/// What is read for a call, which finds these rows: by the key all of the row, of which a tombstone may be left.
fn read_bytes(contract: &Contract, tables: &Tables, call: &LookupCall, rows: &[Vec<Value>]) -> usize {
    let lookup = &contract.lookups[usize::from(call.lookup)];
    match contract.tables[lookup.table].key_given(&lookup.by, &call.arguments) {
        Some(key) => tables.row(lookup.table, &key).map_or(0, Row::size_bytes),
        None => rows.iter().map(|row| Row { values: row.clone(), tombstone: false }.size_bytes()).sum(),
    }
}
