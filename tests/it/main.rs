#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod breaking_off;
mod harness;
mod http_connections;
mod kafka;
mod loading;
mod purity;
mod reading;
mod store;
mod vouching;
