//! scratch
pub mod event;
pub mod batch;
pub mod config;
pub mod checkpoint;
pub mod failpoint;
pub mod plugin;
pub mod source;
pub mod plan;
pub mod store;
pub mod validate;
