//! What is published is there, where the publisher says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod consumed;
mod kafka;
mod mock_cluster;
