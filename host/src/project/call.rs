//! One call of the plugin, with the checks before and after it.

use projector_core::event::Event;
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_sandbox::{Answer, Found, Instance, Plugin};

use super::FirstAnswer;
use crate::validate;

/// Calls the plugin, and checks its answer against the contract. Fails without a call if the event cannot be passed to a
/// plugin.
pub(super) fn checked(
    plugin: &Plugin,
    instance: &mut Instance,
    event: &Event,
    found: &[Found],
) -> FirstAnswer {
    if let Some(bytes) = event.oversize_bytes {
        return Err(oversize(event, bytes));
    }
    if let Some(header) = event.headers.iter().find(|header| header.text_name().is_none()) {
        return Err(bad_header_name(event, &header.name));
    }
    let mut answer = instance.project(event, found)?;
    match &mut answer {
        Answer::Changes(changes) => validate::changes(&plugin.contract, event.topic, changes)?,
        Answer::Needs(calls) => validate::lookups(&plugin.contract, event.topic, calls)?,
        Answer::Ignored { .. } => {}
    }
    Ok(answer)
}

/// The plugin's interface takes header names as text, so a name that is not UTF-8 cannot be passed.
fn bad_header_name(event: &Event, name: &[u8]) -> Failure {
    let detail = format!(
        "the record at {} has a header whose name is not UTF-8, so the record cannot be passed to a plugin: \"{}\" (hex {}); correct the record's producer",
        event.position,
        name.escape_ascii(),
        hex::encode(name)
    );
    Failure::new(FailureKind::Invalid, "header-name", detail)
}

/// The host does not hold the value. Without it, the event would look like a tombstone to the plugin, so the plugin is
/// not called.
fn oversize(event: &Event, bytes: usize) -> Failure {
    let at = &event.position;
    let detail = format!(
        "its value has {bytes} bytes, more than `kafka.value-bytes`; the value is only in the log, at {at}"
    );
    Failure::new(FailureKind::TooLarge, "value-bytes", detail)
}
