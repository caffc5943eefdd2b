//! What wit-bindgen generates from `wit/v1`. Nothing else is in this module.
//!
//! `component` converts between these types and the SDK's own, and `log` calls the host's `log`. No other module uses the
//! generated types. So a new version of wit-bindgen or of the contract changes only these two modules.

#![expect(clippy::too_many_arguments, reason = "generated: the flat signature of the canonical ABI")]

wit_bindgen::generate!({
    path: "../wit/v1",
    world: "projection",
    pub_export_macro: true,
    export_macro_name: "export",
    default_bindings_module: "projector_sdk::bindings",
});
