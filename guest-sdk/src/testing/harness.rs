//! The part of the host that a projection can observe, for tests.
//!
//! Why: an author tests a projection with the semantics of the host, but without Kafka and a database. The harness also
//! finds mistakes that the host would find only later, such as a handler that keeps state between events.

use std::collections::HashMap;
use std::marker::PhantomData;

use projector_model::change::codes;
use projector_model::descriptor::{Code, IdPart};
use projector_model::{Change, Contract, LookupCall, Rejection, Tables};

use super::Handled;
use crate::log::{self, Level};
use crate::record::{Answer, Found, Record};
use crate::{AsKey, Projection, Table};

/// A topic in Kafka, and the parts of an event's id, as the producer wrote them.
type Id = (String, Vec<Vec<u8>>);

/// How often, at most, the host calls a projection for one event.
const MAX_ROUNDS: usize = 3;

/// A projection and its rows.
///
/// A clone has its own copy of the rows. So a test can continue in several ways from one beginning.
#[derive(Debug)]
pub struct Harness<P> {
    contract: Contract,
    tables: Tables,
    next_offset: i64,
    log: Vec<(Level, String)>,
    /// Events that wait for a row, and events behind them, in the order in which they came.
    waiting: Vec<Record>,
    /// The outcomes of events that have waited.
    after_waiting: Vec<Handled>,
    /// The ids of handled events, for topics that declare an event id. For each id: the offset and the timestamp of its
    /// first event.
    ids: HashMap<Id, (i64, Option<i64>)>,
    projection: PhantomData<fn() -> P>,
}

impl<P: Projection> Harness<P> {
    /// Creates the projection with empty tables.
    ///
    /// # Panics
    ///
    /// If the host would refuse the projection. The message lists everything that is wrong with its declaration.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "this function can panic, which `default` should not")]
    pub fn new() -> Self {
        match P::descriptor().check() {
            Ok(contract) => Self {
                tables: Tables::new(&contract),
                contract,
                next_offset: 0,
                log: Vec::new(),
                waiting: Vec::new(),
                after_waiting: Vec::new(),
                ids: HashMap::new(),
                projection: PhantomData,
            },
            Err(problems) => panic!("the host would refuse this projection:\n{problems}"),
        }
    }

    /// All rows of a table, in the order of the key.
    ///
    /// # Panics
    ///
    /// If the projection does not own the table.
    #[track_caller]
    pub fn rows<T: Table>(&self) -> Vec<T> {
        let table = self.table::<T>();
        let visible = self.tables.rows(table).filter(|(_, row)| !row.tombstone);
        visible.map(|(_, row)| read_row(&row.values)).collect()
    }

    /// The row with this key, or `None`: `harness.row::<Customer>("c1")`.
    ///
    /// # Panics
    ///
    /// If the projection does not own the table.
    #[track_caller]
    pub fn row<T: Table>(&self, key: impl AsKey<T::Key>) -> Option<T> {
        let row = self.tables.row(self.table::<T>(), &key.into_values())?;
        (!row.tombstone).then(|| read_row(&row.values))
    }

    /// The lines that the projection has logged so far.
    pub fn log(&self) -> &[(Level, String)] {
        &self.log
    }

    /// How many events wait for a row, or behind an event that waits.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The outcomes of events that have waited, in order. Each outcome is returned once.
    pub fn after_waiting(&mut self) -> Vec<Handled> {
        std::mem::take(&mut self.after_waiting)
    }

    /// The projection's declaration, checked.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// The offset of the next event, if the test sets no other.
    pub(super) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    #[track_caller]
    pub(super) fn deliver(&mut self, record: Record) -> Handled {
        self.next_offset = record.offset + 1;
        self.end_waits(record.timestamp_ms);
        if let Some(first) = self.first_of_its_id(&record) {
            let detail = format!("an event with the same id was handled before, at offset {first}");
            return Handled::Ignored { code: codes::DUPLICATE.into(), detail };
        }
        if is_behind(&record, &self.waiting) {
            self.waiting.push(record);
            return Handled::Waiting { row: "the row of an earlier event of its topic and key".into() };
        }
        let handled = self.project(&record);
        match &handled {
            Handled::Waiting { .. } => self.waiting.push(record),
            Handled::Applied { .. } => self.try_waiting(),
            Handled::Ignored { .. } | Handled::Rejected { .. } => {}
        }
        handled
    }

    /// The offset of an earlier event with the same id, within the window. If there is none, the id is remembered.
    fn first_of_its_id(&mut self, record: &Record) -> Option<i64> {
        let declared = self.contract.topics[usize::from(record.topic)].event_id.as_ref()?;
        let of_header =
            |name: &str| record.headers.iter().rev().find(|header| header.name == name)?.value.as_deref();
        let written = |part: &IdPart| part.written(of_header, record.value.as_deref()).map(<[u8]>::to_vec);
        let parts = declared.parts.iter().map(written).collect::<Option<Vec<_>>>()?;
        let window_ms = i64::from(declared.window_seconds) * 1_000;
        let is_over = |then: i64| record.timestamp_ms.is_some_and(|now| now.saturating_sub(then) > window_ms);
        let id = (record.topic_name.clone(), parts);
        match self.ids.get(&id) {
            Some((first, then)) if !then.is_some_and(is_over) => Some(*first),
            _ => {
                self.ids.insert(id, (record.offset, record.timestamp_ms));
                None
            }
        }
    }

    /// Projects waiting events again, in order, until all of the remaining events still wait.
    #[track_caller]
    fn try_waiting(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            let record = self.waiting[at].clone();
            if is_behind(&record, &self.waiting[..at]) {
                at += 1;
                continue;
            }
            match self.project(&record) {
                Handled::Waiting { .. } => at += 1,
                done => {
                    self.waiting.remove(at);
                    self.after_waiting.push(done);
                    // This event may have written the row that an earlier event waits for.
                    at = 0;
                }
            }
        }
    }

    /// Rejects the events that have waited for longer than their topic declares, in event time.
    #[track_caller]
    fn end_waits(&mut self, now_ms: Option<i64>) {
        let waits: Vec<_> = self.contract.topics.iter().map(|topic| topic.wait_seconds).collect();
        let is_over = |record: &Record| {
            let seconds = waits[usize::from(record.topic)].unwrap_or_default();
            let until = record.timestamp_ms.map(|ms| ms.saturating_add(i64::from(seconds) * 1_000));
            matches!((now_ms, until), (Some(now), Some(until)) if now > until)
        };
        while let Some(at) = (0..self.waiting.len())
            .find(|at| is_over(&self.waiting[*at]) && !is_behind(&self.waiting[*at], &self.waiting[..*at]))
        {
            let record = self.waiting.remove(at);
            let topic = &self.contract.topics[usize::from(record.topic)].name;
            let detail = format!("the row that an event of {topic} waited for was not written in time");
            self.after_waiting.push(Rejection::new(codes::NOT_YET, detail).into());
            self.try_waiting();
        }
    }

    #[track_caller]
    fn project(&mut self, record: &Record) -> Handled {
        let mut found: Vec<Found> = Vec::new();
        for _ in 0..MAX_ROUNDS {
            match self.call(record, &found) {
                Ok(Answer::Needs(calls))
                    if LookupCall::means_not_yet(&calls, found.iter().map(|found| &found.call)) =>
                {
                    return Handled::Waiting { row: self.awaited(record, &calls[0]) };
                }
                Ok(Answer::Needs(calls)) => {
                    for call in calls {
                        match self.read(record, call) {
                            Ok(rows) => found.push(rows),
                            Err(rejection) => return rejection.into(),
                        }
                    }
                }
                Ok(Answer::Changes(changes)) => return self.apply(record, changes),
                Ok(Answer::Ignored { code, detail }) => {
                    expect_declared("ignores", &code, &self.contract.descriptor.ignores);
                    return Handled::Ignored { code, detail };
                }
                Err(rejection) => {
                    expect_declared("rejects", &rejection.code, &self.contract.descriptor.rejects);
                    return rejection.into();
                }
            }
        }
        panic!(
            "the handler still asks for rows after {MAX_ROUNDS} rounds: let it `prefetch` some of them together"
        )
    }

    /// The row that an event waits for, as text.
    #[track_caller]
    fn awaited(&self, record: &Record, call: &LookupCall) -> String {
        let topic = &self.contract.topics[usize::from(record.topic)];
        assert!(
            topic.wait_seconds.is_some(),
            "an event of {} waits for a row, but its handler does not declare that: add `waits = \"24h\"`",
            topic.name
        );
        let lookup = &self.contract.lookups[usize::from(call.lookup)];
        assert!(
            lookup.is_by_key(&self.contract.tables[lookup.table]),
            "an event of {} waits for the rows of {}, but an event can only wait for a row that is selected by its key",
            topic.name,
            lookup.name
        );
        self.contract.selected_by(call)
    }

    /// Calls the projection twice, because a pure function gives the same answer twice.
    #[track_caller]
    fn call(&mut self, record: &Record, found: &[Found]) -> Result<Answer, Rejection> {
        let answer = P::project(record, found.to_vec());
        self.log.extend(log::take());
        let again = P::project(record, found.to_vec());
        log::take();
        assert!(
            answer == again,
            "the handler gave two different answers for the same event and rows: it keeps state between events\nfirst: {answer:?}\nthen: {again:?}"
        );
        answer
    }

    /// Reads the rows of a lookup call. A key that no row can have rejects the event, as it does in a change.
    #[track_caller]
    fn read(&self, record: &Record, call: LookupCall) -> Result<Found, Rejection> {
        let mut fitted = call.clone();
        match self.contract.fit_lookup(&mut fitted) {
            Err(rejection) if rejection.code == codes::INVALID_CHANGE => {
                panic!("the host would refuse this lookup call: {rejection}")
            }
            Err(rejection) => return Err(rejection),
            Ok(()) => {}
        }
        let lookup = usize::from(call.lookup);
        let topic = &self.contract.topics[usize::from(record.topic)];
        assert!(
            topic.lookups[lookup],
            "an event of {} reads {}, but its handler does not declare that: add it to `reads(…)`",
            topic.name, self.contract.lookups[lookup].name
        );
        Ok(Found { rows: self.tables.lookup(&self.contract, &fitted), call })
    }

    #[track_caller]
    fn apply(&mut self, record: &Record, changes: Vec<Change>) -> Handled {
        let topic = &self.contract.topics[usize::from(record.topic)];
        for change in &changes {
            let statement = usize::from(change.statement);
            assert!(
                topic.writes.get(statement).copied().unwrap_or(true),
                "an event of {} writes {}, but its handler does not declare that: add it to `writes(…)`",
                topic.name,
                self.contract.writes[statement].name
            );
        }
        // The interpreter checks every change against its declaration before it applies the change.
        match self.tables.apply_event(&self.contract, &changes) {
            Ok(touched) => Handled::Applied { changes, touched },
            Err(rejection) => rejection.into(),
        }
    }

    #[track_caller]
    fn table<T: Table>(&self) -> usize {
        let owned = self.contract.tables.iter().position(|table| table.name == T::TABLE.name);
        owned.unwrap_or_else(|| panic!("the projection has no table `{}`", T::TABLE.name))
    }
}

/// Whether an earlier event of the same topic and key waits.
fn is_behind(record: &Record, waiting: &[Record]) -> bool {
    let same_topic_and_key = |earlier: &Record| earlier.topic == record.topic && earlier.key == record.key;
    record.key.is_some() && waiting.iter().any(same_topic_and_key)
}

impl<P> Clone for Harness<P> {
    fn clone(&self) -> Self {
        Self {
            contract: self.contract.clone(),
            tables: self.tables.clone(),
            next_offset: self.next_offset,
            log: self.log.clone(),
            waiting: self.waiting.clone(),
            after_waiting: self.after_waiting.clone(),
            ids: self.ids.clone(),
            projection: PhantomData,
        }
    }
}

#[track_caller]
fn read_row<T: Table>(values: &[projector_model::Value]) -> T {
    T::from_row(values).unwrap_or_else(|problem| panic!("a stored row cannot be read: {problem}"))
}

#[track_caller]
fn expect_declared(list: &str, code: &str, declared: &[Code]) {
    assert!(
        declared.iter().any(|known| known.code == code) || codes::BUILT_IN.contains(&code),
        "the code {code:?} is not declared: add `{list}({code:?} = \"what it means\")` to #[projection(…)]"
    );
}
