//! The host's own tables, in the one SQL that both databases have.
//!
//! The statements are written for Postgres. A [`Session`] translates what its database writes otherwise, a [`Database`]
//! begins transactions, and [`GenerationTables`] has the statements for the tables of projections. Only what differs in
//! kind is in the database's own module: row locks, arrays, the catalogue.
//!
//! In SQLite, a table `projector.x` is `projector_x`, and a time is a number of microseconds since 1970.

mod admission;
mod checkpoints;
mod control;
mod counters;
pub(super) mod dead_letters;
mod deployments;
mod generation_rows;
mod generation_tables;
mod generations;
mod history;
mod hosts;
mod moves;
pub(super) mod operations;
mod promotion;
pub(super) mod release;
mod removal;
mod retention;
mod rollout;
mod session;
mod status;
pub(super) mod stored_events;
mod view_sets;
mod waiting_events;
mod write_barrier;

pub(super) use admission::Admission;
pub(super) use counters::{adjust_counters, recount};
pub(super) use generation_rows::generations;
pub(super) use generation_tables::{GenerationTables, LaidTables, Removal};
pub(super) use rollout::open_rollout;
pub(super) use session::{Argument, Database, Session, Stored};
