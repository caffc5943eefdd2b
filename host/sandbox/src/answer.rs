//! What a plugin answers, and what it is given beside an event: plain data of the model.

use projector_model::{Change, LookupCall, Value};

/// A plugin's answer, checked against the plugin's descriptor.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Changes(Vec<Change>),
    Ignored { code: String, detail: String },
    Needs(Vec<LookupCall>),
}

impl Answer {
    /// The answer's size in memory.
    pub fn size_bytes(&self) -> usize {
        match self {
            Answer::Changes(changes) => changes.iter().map(Change::size_bytes).sum(),
            Answer::Ignored { code, detail } => code.len() + detail.len(),
            Answer::Needs(calls) => calls.iter().map(LookupCall::size_bytes).sum(),
        }
    }
}

/// The rows that a lookup found, for the plugin.
pub type Found = (LookupCall, Vec<Vec<Value>>);
