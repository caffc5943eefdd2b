//! Turns a core module, as cargo builds it, into a component, as hosts load it.

use projector_sandbox::Forbidden;

use super::OperationError;

/// Wraps a core module that was built with the SDK for `wasm32-unknown-unknown`. A component is
/// returned as it is.
pub fn component(module: &[u8]) -> Result<Vec<u8>, OperationError> {
    if module.starts_with(b"\0asm\x0d\0\x01\0") {
        return Ok(module.to_vec());
    }
    if let Some(forbidden) = Forbidden::by_module(module) {
        return Err(OperationError::Failed(format!("this module cannot be a plugin: {forbidden}")));
    }
    let failed = |error: &dyn std::fmt::Display| {
        OperationError::Failed(format!(
            "this is not a module that was built with projector-sdk for wasm32-unknown-unknown: {error}"
        ))
    };
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .map_err(|error| failed(&format!("{error:#}")))?
        .encode()
        .map_err(|error| failed(&format!("{error:#}")))
}
