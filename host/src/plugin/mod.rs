//! The sandbox: a WebAssembly component that is called once for every event.
//!
//! This wing is the only one that sees wasmtime. A component is compiled in a process of its own
//! (`compile`), held against the contract (`loader`), and called in a fresh instance for every
//! batch (`instance`), within its limits.

mod bindings;
pub mod compile;
mod convert;
mod engine;
mod imports;
mod instance;
mod limits;
mod loader;
mod log;
mod names;

pub use engine::{Engine, MOST_STACK_BYTES};
pub use imports::Forbidden;
pub use instance::{Answer, Found, Instance};
pub use limits::Limits;
pub use loader::{LoadError, Plugin};

/// A component's identity: the SHA-256 of its bytes, in lowercase hex.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}
