//! The host's own tables, in the one SQL that both databases have.
//!
//! The statements here are written for Postgres. A [`Session`] translates what its database writes otherwise, and
//! a [`Database`] says what a transaction waits for. Only what differs in kind stands in the database's own module:
//! row locks, arrays, the catalogue, and the tables of projections.
//!
//! In SQLite, a table `projector.x` is `projector_x`, and a time is a number of microseconds since 1970.

mod admission;
mod beginnings;
mod control;
mod counters;
pub(super) mod dead_letters;
pub(super) mod deployments;
mod moves;
pub(super) mod operations;
mod overview;
mod retention;
mod session;
mod write_barrier;

pub(super) use admission::Admission;
pub(super) use counters::{adjust_counters, recount};
pub(super) use session::{Argument, Database, Session, Stored};
pub(super) use write_barrier::offsets_json;
