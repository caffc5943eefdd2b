//! The plain data and the pure decisions of the host: no I/O, no async runtime, no database, no broker.
//!
//! - What flows: [`event`], [`batch`], [`checkpoint`], [`outcome`].
//! - What is decided: [`ordering`], [`duplicate`], [`awaited`], [`failure_policy`], [`planner`], [`topics`].
//! - What a projection is made of: [`layout`], [`views`], [`generation`], [`deployment`], [`ownership`], and where a
//!   version of it goes: [`rollout_target`].
//! - What is counted: [`counters`].
//! - What goes wrong: [`failure`] (every kind, and what an operator does), [`event_failure`]. What is
//!   refused: [`refusal`].
//!
//! Every other crate of the host depends on this one, and this one on none of them.

pub mod awaited;
pub mod batch;
pub mod checkpoint;
pub mod counters;
pub mod deployment;
pub mod duplicate;
pub mod event;
pub mod event_failure;
pub mod failpoint;
pub mod failure;
pub mod failure_policy;
pub mod generation;
pub mod instant;
pub mod layout;
pub mod member_ids;
pub mod ordering;
pub mod outcome;
pub mod ownership;
pub mod planner;
pub mod recent_causes;
pub mod refusal;
pub mod rollout_target;
pub mod topics;
pub mod views;
