//! The declaration of the whole projection, and the functions that the host calls.

use projector_model::descriptor::{Code, EventId, IdPart, Topic};
use projector_model::{Descriptor, Rejection};

use super::lookup::LookupDeclaration;
use super::statement::StatementDeclaration;
use super::table::TableDeclaration;
use crate::record::{Answer, Found, Record};

/// The functions that the host calls. `#[projection]` implements this trait.
///
/// A plugin that composes its changes itself implements the trait by hand, and calls
/// `projector_sdk::export_projection!(Name)` under `#[cfg(target_arch = "wasm32")]`.
pub trait Projection: 'static {
    /// What the projection declares. The host reads the descriptor once, when it loads the plugin.
    fn descriptor() -> Descriptor;

    /// Projects one event. `found` has the rows that earlier calls for the same event asked for.
    ///
    /// Must be a pure function of its arguments. The host calls it again for a sample of events, in other instances, and
    /// compares the answers.
    fn project(record: &Record, found: Vec<Found>) -> Result<Answer, Rejection>;
}

/// A projection, as a constant.
#[derive(Debug)]
pub struct ProjectionDeclaration {
    pub name: &'static str,
    pub version: &'static str,
    pub revision: u32,
    pub topics: &'static [TopicDeclaration],
    pub statements: &'static [&'static StatementDeclaration],
    pub lookups: &'static [&'static LookupDeclaration],
    /// Each code with its meaning.
    pub ignores: &'static [(&'static str, &'static str)],
    pub rejects: &'static [(&'static str, &'static str)],
}

/// A topic of a projection, as a constant.
#[derive(Debug)]
pub struct TopicDeclaration {
    pub name: &'static str,
    /// The indices of the statements that an event may call.
    pub statements: &'static [u16],
    /// The indices of the lookups that an event may call.
    pub lookups: &'static [u16],
    pub event_id: Option<EventIdDeclaration>,
    pub ordering_group: Option<&'static str>,
    pub wait_seconds: Option<u32>,
}

/// Where an event carries its id, by which the host recognises duplicates from a producer.
#[derive(Debug, Clone, Copy)]
pub struct EventIdDeclaration {
    pub parts: &'static [IdPartDeclaration],
    pub window_seconds: u32,
}

/// A header, or a field at the top level of the payload.
#[derive(Debug, Clone, Copy)]
pub enum IdPartDeclaration {
    Header(&'static str),
    Field(&'static str),
}

impl EventIdDeclaration {
    fn describe(self) -> EventId {
        let mut id =
            EventId { header: None, field: None, parts: Vec::new(), window_seconds: self.window_seconds };
        match self.parts {
            [IdPartDeclaration::Header(name)] => id.header = Some((*name).into()),
            [IdPartDeclaration::Field(name)] => id.field = Some((*name).into()),
            parts => {
                id.parts.extend(parts.iter().map(|part| match part {
                    IdPartDeclaration::Header(name) => IdPart::Header((*name).into()),
                    IdPartDeclaration::Field(name) => IdPart::Field((*name).into()),
                }));
            }
        }
        id
    }
}

impl ProjectionDeclaration {
    /// The descriptor. Its tables are those that the statements write and the lookups read, in the order of their first
    /// use.
    pub fn describe(&self) -> Descriptor {
        let mut tables: Vec<&TableDeclaration> = Vec::new();
        let written = self.statements.iter().map(|statement| statement.table);
        for table in written.chain(self.lookups.iter().map(|lookup| lookup.table)) {
            if !tables.iter().any(|known| known.name == table.name) {
                tables.push(table);
            }
        }
        let topic = |topic: &TopicDeclaration| Topic {
            name: topic.name.into(),
            statements: topic
                .statements
                .iter()
                .map(|at| self.statements[usize::from(*at)].name.into())
                .collect(),
            lookups: topic.lookups.iter().map(|at| self.lookups[usize::from(*at)].name.into()).collect(),
            event_id: topic.event_id.map(EventIdDeclaration::describe),
            ordering_group: topic.ordering_group.map(Into::into),
            wait_seconds: topic.wait_seconds,
        };
        Descriptor {
            name: self.name.into(),
            version: self.version.into(),
            revision: self.revision,
            topics: self.topics.iter().map(topic).collect(),
            tables: tables.into_iter().map(TableDeclaration::describe).collect(),
            statements: self.statements.iter().map(|statement| statement.describe()).collect(),
            lookups: self.lookups.iter().map(|lookup| lookup.describe()).collect(),
            ignores: codes(self.ignores),
            rejects: codes(self.rejects),
        }
    }
}

fn codes(declared: &[(&str, &str)]) -> Vec<Code> {
    declared.iter().map(|(code, meaning)| Code { code: (*code).into(), meaning: (*meaning).into() }).collect()
}
