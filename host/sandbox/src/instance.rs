//! One instance of a plugin: makes the calls for one batch.
//!
//! A fresh instance for each batch has no memory of earlier batches, so a batch has the same result whichever
//! host projects it.
//!
//! Invariant: an instance whose call failed is not called again.

use std::sync::Arc;

use projector_core::event::Event;
use projector_core::event_failure::{Failure, printable};
use projector_core::failure::FailureKind;
use projector_model::Value;
use projector_model::change::codes;
use wasmtime::Store;

use super::answer::{Answer, Found};
use super::bindings::Projection;
use super::bindings::projector::plugin::types;
use super::call::{State, arm, failure, instantiate};
use super::convert;
use super::loader::Plugin;
use super::log::GuestLogger;

/// A running instance. After a trap or an exceeded limit, it cannot be used any more:
/// [`Instance::is_spent`].
pub struct Instance {
    plugin: Plugin,
    store: Store<State>,
    projection: Projection,
    /// A call failed.
    spent: bool,
    /// The fuel that the last call got.
    fuel: u64,
}

impl Instance {
    /// Creates a fresh instance, without memory of another batch.
    pub fn new(plugin: &Plugin) -> Result<Self, Failure> {
        Self::logging(plugin, Some(plugin.log.clone()))
    }

    /// Creates an instance for repeated calls. It logs nothing.
    pub fn silent(plugin: &Plugin) -> Result<Self, Failure> {
        Self::logging(plugin, None)
    }

    fn logging(plugin: &Plugin, log: Option<Arc<GuestLogger>>) -> Result<Self, Failure> {
        let (store, projection) = instantiate(&plugin.engine, &plugin.pre, &plugin.limits, log)?;
        Ok(Self { plugin: plugin.clone(), store, projection, spent: false, fuel: plugin.limits.event.fuel })
    }

    /// Whether a call failed, so that the instance must be replaced.
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    /// The fuel that the last call used.
    pub fn fuel_used(&self) -> u64 {
        let left = self.store.get_fuel().unwrap_or_default();
        self.fuel.saturating_sub(left)
    }

    /// Projects one event with the rows that were found for it so far.
    ///
    /// The codes and lookups of the answer are declared ones. Its changes are checked by `validate`. An error
    /// is the event's failure: the plugin rejects it, traps, exceeds a limit, or returns something undeclared.
    pub fn project(&mut self, event: &Event, found: &[Found]) -> Result<Answer, Failure> {
        self.fuel = arm(&mut self.store, &self.plugin.limits.event, given_bytes(event, found));
        self.store.data_mut().position = Some(event.position.clone());
        let headers = convert::headers(event);
        let event = convert::event(event, &headers);
        let called =
            convert::with_found(found, |found| self.projection.call_project(&mut self.store, event, found));
        let outcome = match called {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(rejection)) => return Err(self.rejection(rejection)),
            Err(error) => {
                self.spent = true;
                return Err(failure(&mut self.store, &error));
            }
        };
        self.answer(outcome)
    }

    fn answer(&self, outcome: types::Outcome) -> Result<Answer, Failure> {
        let limits = &self.plugin.limits.event;
        match outcome {
            types::Outcome::Changes(changes) if changes.len() > limits.changes => Err(Failure::new(
                FailureKind::Limit,
                "changes",
                format!("the plugin returned {} changes, and {} are the most", changes.len(), limits.changes),
            )),
            types::Outcome::Changes(changes) => changes
                .into_iter()
                .map(|change| convert::change(change, &self.plugin.contract))
                .collect::<Result<_, _>>()
                .map(Answer::Changes)
                .map_err(|problem| Failure::new(FailureKind::Invalid, codes::INVALID_VALUE, problem)),
            types::Outcome::Ignored(types::Ignored { code, detail }) => {
                let declared = &self.plugin.contract.descriptor.ignores;
                if !declared.iter().any(|declared| declared.code == code) {
                    return Err(undeclared("ignore", &code));
                }
                Ok(Answer::Ignored { code, detail: printable(&detail) })
            }
            types::Outcome::Needs(calls) if calls.len() > limits.lookups => Err(Failure::new(
                FailureKind::Limit,
                "lookups",
                format!("the plugin asked for {} lookups, and {} are the most", calls.len(), limits.lookups),
            )),
            types::Outcome::Needs(calls) => calls
                .into_iter()
                .map(|call| convert::lookup_call(call, &self.plugin.contract))
                .collect::<Result<_, _>>()
                .map(Answer::Needs)
                .map_err(|problem| Failure::new(FailureKind::Invalid, codes::INVALID_VALUE, problem)),
        }
    }

    fn rejection(&self, rejection: types::Rejection) -> Failure {
        let declared = &self.plugin.contract.descriptor.rejects;
        let known =
            rejection.code == codes::BAD_PAYLOAD || declared.iter().any(|code| code.code == rejection.code);
        match known {
            true => Failure::new(FailureKind::Rejected, &rejection.code, rejection.detail),
            false => undeclared("rejection", &rejection.code),
        }
    }
}

/// The number of bytes that a call gets to read.
fn given_bytes(event: &Event, found: &[Found]) -> usize {
    let of_value = |value: &Value| match value {
        Value::Text(text) | Value::Json(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    let of_rows = |(_, rows): &Found| rows.iter().flatten().map(of_value).sum::<usize>();
    event.size_bytes() + found.iter().map(of_rows).sum::<usize>()
}

fn undeclared(kind: &str, code: &str) -> Failure {
    let code = printable(code);
    Failure::new(
        FailureKind::Invalid,
        codes::INVALID_CHANGE,
        format!("the plugin returned the {kind} code {code:?}, which its descriptor does not declare"),
    )
}
