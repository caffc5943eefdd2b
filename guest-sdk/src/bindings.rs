//! What wit-bindgen generates from `wit/v1`. Nothing else is in this module.
//!
//! The generated file is checked in, so that a build of a plugin does not build the generator. A test of xtask
//! (`xtask/src/guests/bindings.rs`) generates the file and compares the two.
//!
//! `component` converts between these types and the SDK's own, and `log` calls the host's `log`. No other module uses the
//! generated types. So a new version of wit-bindgen or of the contract changes only these two modules.

#![expect(clippy::all, clippy::allow_attributes, clippy::unwrap_used, unreachable_pub, reason = "generated")]

// Included, not a module: rustfmt and the size lint follow modules only.
include!("bindings/generated.rs");
