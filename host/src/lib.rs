//! The host: it reads events from Kafka, calls plugins, and writes rows and checkpoints to the store.
//!
//! The path of an event:
//!
//! ```text
//! kafka → source → batch → plugin → validate → plan → store (rows + checkpoint, one transaction)
//! ```
//!
//! [`pipeline`] is this path from left to right: one loop for each lane of a projection. [`supervisor`] keeps the loops
//! running. The modules below are grouped: deployments; the stages of a batch; the loops and the tasks beside them; the
//! commands and the HTTP API. The glossary in the book defines the words: `docs/src/glossary.md`.

pub mod deploy;

pub mod dead_letter_log;
pub mod project;
pub mod settle;
pub mod validate;

pub mod catch_up;
pub mod control_state;
pub mod event_ids;
pub mod event_time;
pub mod foreign_members;
pub mod lane;
pub mod pipeline;
pub mod retry;
pub mod start_offsets;
pub mod supervisor;
pub mod wait_expiry;

pub mod admin;
pub mod cli;
pub mod freshness;
pub mod operations;
