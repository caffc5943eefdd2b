//! Projector: the host.
//!
//! The way of an event:
//!
//! ```text
//! kafka → source → batch → plugin → validate → plan → store (rows + checkpoint, one transaction)
//! ```
//!
//! [`pipeline`] is that way, top to bottom, one loop for each lane of a projection; [`supervisor`]
//! keeps the loops alive. Modules stand in reading order: first plain data, then the stages, then
//! what joins them, then what people ask. The book's glossary has the words: `docs/src/glossary.md`.

pub mod catch_up;
pub mod dead_letter_log;
pub mod deploy;

pub mod project;
pub mod settle;
pub mod validate;

pub mod beginning;
pub mod control_state;
pub mod event_ids;
pub mod event_time;
pub mod lane;
pub mod pipeline;
pub mod retry;
pub mod strangers;
pub mod supervisor;
pub mod wait_ages;

pub mod admin;
pub mod cli;
pub mod freshness;
pub mod operations;
