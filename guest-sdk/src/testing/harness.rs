//! The host's part, as far as a projection can tell.

use std::marker::PhantomData;

use projector_model::change::codes;
use projector_model::descriptor::Code;
use projector_model::{Change, Contract, LookupCall, Rejection, Tables};

use super::{Delivery, Handled};
use crate::log::{self, Level};
use crate::record::{Answer, Found, Record};
use crate::{AsKey, Projection, Table};

/// How often the host calls a projection for one event.
const MOST_ROUNDS: usize = 3;

/// A projection and its rows.
///
/// A clone is independent: that is how a test tries several orders of events from one beginning.
#[derive(Debug)]
pub struct Harness<P> {
    contract: Contract,
    tables: Tables,
    next_offset: i64,
    log: Vec<(Level, String)>,
    projection: PhantomData<fn() -> P>,
}

impl<P: Projection> Harness<P> {
    /// With empty tables.
    ///
    /// # Panics
    ///
    /// If the host would refuse the projection; the message has everything that is wrong with it.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it panics, which a default should not")]
    pub fn new() -> Self {
        match P::descriptor().check() {
            Ok(contract) => Self {
                tables: Tables::new(&contract),
                contract,
                next_offset: 0,
                log: Vec::new(),
                projection: PhantomData,
            },
            Err(problems) => panic!("the host would refuse this projection:\n{problems}"),
        }
    }

    /// An event of this topic, to be built and sent.
    ///
    /// # Panics
    ///
    /// If the projection does not read the topic.
    #[track_caller]
    pub fn event(&mut self, topic: &str) -> Delivery<'_, P> {
        let Some(topic) = self.contract.topics.iter().position(|declared| declared.name == topic) else {
            panic!("the projection has no handler for {topic:?}");
        };
        let record = Record {
            topic: topic as u16,
            topic_name: self.contract.topics[topic].name.clone(),
            offset: self.next_offset,
            ..Record::default()
        };
        Delivery { harness: self, record }
    }

    /// All rows of a table, in the order of their key.
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

    /// The row of this key: `harness.row::<Customer>("c1")`.
    ///
    /// # Panics
    ///
    /// If the projection does not own the table.
    #[track_caller]
    pub fn row<T: Table>(&self, key: impl AsKey<T::Key>) -> Option<T> {
        let row = self.tables.row(self.table::<T>(), &key.into_values())?;
        (!row.tombstone).then(|| read_row(&row.values))
    }

    /// What the projection has logged so far.
    pub fn log(&self) -> &[(Level, String)] {
        &self.log
    }

    /// The projection's declaration, checked.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    #[track_caller]
    pub(super) fn deliver(&mut self, record: Record) -> Handled {
        self.next_offset = record.offset + 1;
        let mut found = Vec::new();
        for _ in 0..MOST_ROUNDS {
            match self.call(&record, &found) {
                Ok(Answer::Needs(calls)) => {
                    for call in calls {
                        match self.answer(&record, call) {
                            Ok(rows) => found.push(rows),
                            Err(rejection) => return rejection.into(),
                        }
                    }
                }
                Ok(Answer::Changes(changes)) => return self.apply(&record, changes),
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
            "the handler still asks for rows after {MOST_ROUNDS} rounds: let it `prefetch` some of them together"
        )
    }

    /// Calls the projection twice: a pure function answers the same.
    #[track_caller]
    fn call(&mut self, record: &Record, found: &[Found]) -> Result<Answer, Rejection> {
        let answer = P::project(record, found.to_vec());
        self.log.extend(log::take());
        let again = P::project(record, found.to_vec());
        log::take();
        assert!(
            answer == again,
            "asked the same twice, the handler gave two answers: it keeps something between events\nfirst: {answer:?}\nthen: {again:?}"
        );
        answer
    }

    /// A key that no row can have rejects the event, as it would in a change.
    #[track_caller]
    fn answer(&self, record: &Record, call: LookupCall) -> Result<Found, Rejection> {
        let mut fitted = call.clone();
        match self.contract.fit_lookup(&mut fitted) {
            Err(rejection) if rejection.code == codes::INVALID_CHANGE => {
                panic!("a lookup that the host would refuse: {rejection}")
            }
            Err(rejection) => return Err(rejection),
            Ok(()) => {}
        }
        let lookup = usize::from(call.lookup);
        let topic = &self.contract.topics[usize::from(record.topic)];
        assert!(
            topic.lookups[lookup],
            "an event of {} reads {}, which its handler does not declare: add it to `reads(…)`",
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
                "an event of {} writes {}, which its handler does not declare: add it to `writes(…)`",
                topic.name,
                self.contract.writes[statement].name
            );
        }
        // The interpreter fits every change to its declaration before it applies it.
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

impl<P> Clone for Harness<P> {
    fn clone(&self) -> Self {
        Self {
            contract: self.contract.clone(),
            tables: self.tables.clone(),
            next_offset: self.next_offset,
            log: self.log.clone(),
            projection: PhantomData,
        }
    }
}

#[track_caller]
fn read_row<T: Table>(values: &[projector_model::Value]) -> T {
    T::from_row(values).unwrap_or_else(|problem| panic!("a row cannot be read back: {problem}"))
}

#[track_caller]
fn expect_declared(list: &str, code: &str, declared: &[Code]) {
    assert!(
        declared.iter().any(|known| known.code == code) || codes::BUILT_IN.contains(&code),
        "the code {code:?} is not declared: add `{list}({code:?} = \"what it means\")` to #[projection(…)]"
    );
}
