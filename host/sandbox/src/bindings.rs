//! Rust bindings of `wit/v1`. Generated. This module contains nothing else, and its types do not leave the
//! sandbox.
#![allow(
    clippy::allow_attributes,
    dead_code,
    unused_variables,
    unreachable_pub,
    reason = "generated for any use of the contract"
)]

wasmtime::component::bindgen!({
    path: "../../wit/v1",
    world: "projection",
    ownership: Borrowing { duplicate_if_necessary: true },
});
