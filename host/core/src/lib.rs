//! The plain data and the pure decisions of the host: no I/O, no async runtime, no database, no broker.
//!
//! - What flows: [`event`], [`batch`], [`checkpoint`], [`outcome`].
//! - What is decided: [`ordering`], [`duplicate`], [`awaited`], [`failure_policy`], [`planner`], [`topics`].
//! - What goes wrong: [`failure`] (every kind, and what an operator does), [`event_failure`].
//!
//! Every other crate of the host depends on this one, and this one on none of them.

pub mod awaited;
pub mod batch;
pub mod checkpoint;
pub mod duplicate;
pub mod event;
pub mod event_failure;
pub mod failpoint;
pub mod failure;
pub mod failure_policy;
pub mod instant;
pub mod member_ids;
pub mod ordering;
pub mod outcome;
pub mod planner;
pub mod recent_causes;
pub mod topics;
