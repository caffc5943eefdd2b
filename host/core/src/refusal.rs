//! Why the store refuses a change: a type for each reason, so that callers and tests need not read the text.

use crate::checkpoint::partitions_text;
use crate::event::Partition;

/// Why the store refuses a change. The store works, and the change is not allowed as things are; the text says what
/// to do. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("generation {number} of {projection} does not exist any more")]
    Gone { projection: String, number: i32 },
    #[error("generation {number} of {projection} is live")]
    Live { projection: String, number: i32 },
    #[error(
        "generation {number} of {projection} has not come to the end of its topics yet: readers would see a step back"
    )]
    NotCaughtUp { projection: String, number: i32 },
    #[error(
        "generation {number} of {projection} is behind the live one in {}: readers would see a step back",
        partitions_text(.partitions)
    )]
    Behind { projection: String, number: i32, partitions: Vec<Partition> },
    #[error(
        "generation {number} of {projection} is fed from a file: `projector backfill {projection}` goes on with it"
    )]
    Backfilling { projection: String, number: i32 },
    #[error(
        "the backfill of generation {number} of {projection} has ended already: another command ended it"
    )]
    NotBackfilling { projection: String, number: i32 },

    /// Something would be removed or broken that a person made.
    #[error(
        "{what}: nothing is removed, because these objects are not Projector's, and would be lost or broken: {}. Drop them, or change them to read the newest views of the live generation, and try again",
        first_of(.objects)
    )]
    ForeignObjects { what: String, objects: Vec<String> },
    /// The same, as the database tells it: the object was made after the host looked.
    #[error(
        "objects that Projector did not make depend on what is to be removed ({database}): drop them, or change them to read the views of the live generation, and try again"
    )]
    ForeignDependants { database: String },
    #[error("{what} exists already, and Projector did not make it: rename or drop it, and deploy again")]
    ForeignName { what: String },
    #[error(
        "the database has a {kind} of the projection's name already ({database}), and Projector did not make it: rename the projection, or give it a database of its own (`store`)"
    )]
    ForeignHome { kind: &'static str, database: String },
    #[error(
        "the view {view} belongs to the role {owner}, so Projector cannot replace it: `alter view {view} owner to` the role of the store's url, or grant that role the role {owner}"
    )]
    ForeignView { view: String, owner: String },

    #[error("the projection has no views in {schema}: `projector status` shows the views that it has")]
    NoViews { schema: String },
    #[error(
        "the views in {schema} are the only ones that show all columns of generation {number}: they are removed with the generation"
    )]
    OnlyViews { schema: String, number: i32 },
    /// A difference that a comparison is to expect has a name that neither generation has.
    #[error("{0}")]
    UnknownDifference(String),

    #[error("{0} has no checkpoint: no host has read it yet")]
    NoCheckpoint(Partition),
    #[error("the checkpoint of {partition} is {from}: it only moves forward, and {to} is not ahead of it")]
    NotAhead { partition: Partition, from: i64, to: i64 },
    #[error(
        "a host still reads {0}, or its checkpoint was moved meanwhile: `projector pause` the projection first; nothing was changed"
    )]
    StillRead(Partition),

    #[error(
        "hosts use this database: stop {} first, since hosts keep the consumer groups that they have joined; nothing was changed",
        .hosts.join(", ")
    )]
    InUse { hosts: Vec<String> },
    #[error("another command gave the store a new id meanwhile: nothing was changed")]
    AdoptedMeanwhile,
}

/// The most objects that a message names.
const NAMED: usize = 20;

/// The first objects, and how many more there are.
pub fn first_of(objects: &[String]) -> String {
    let first = objects.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match objects.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first}, and {more} more"),
    }
}
