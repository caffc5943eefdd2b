//! The servers really start, die and come back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kafka;
mod postgres;
