//! What `wit/v1` is in Rust. Generated; nothing else is here, and it shows nowhere outside.
#![allow(
    clippy::allow_attributes,
    dead_code,
    unused_variables,
    unreachable_pub,
    reason = "generated for any use of the contract"
)]

wasmtime::component::bindgen!({
    path: "../wit/v1",
    world: "projection",
    ownership: Borrowing { duplicate_if_necessary: true },
});
