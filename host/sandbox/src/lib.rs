//! The sandbox: runs a plugin, which is a WebAssembly component, and calls it for every event.
//!
//! Only this crate uses wasmtime. A component is compiled in a separate process (`compile`), checked
//! against the contract (`loader`), and called in a fresh instance for every batch (`instance`).
//!
//! Invariants: a plugin imports nothing but the types of the contract and `log`. Every call has limits of
//! fuel, wall time, memory and output. Wasmtime's types do not leave this crate.

mod answer;
mod bindings;
mod call;
pub mod compile;
mod convert;
mod engine;
mod imports;
mod instance;
mod limits;
mod loader;
mod log;
mod names;

pub use answer::{Answer, Found};
pub use engine::Engine;
pub use imports::Forbidden;
pub use instance::Instance;
pub use loader::{LoadError, Plugin};

/// The identity of a component: the SHA-256 of its bytes, in lowercase hex.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}
