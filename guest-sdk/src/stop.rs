//! Why a handler stops early.

use std::fmt::Display;

use projector_model::{LookupCall, Rejection};

use crate::record::Answer;

/// What a handler returns. With `Ok(())` the host applies the handler's writes.
pub type Outcome = Result<(), Stop>;

/// Stops a handler without writes: the event is ignored, rejected or waits, or a row must be read first.
///
/// Handlers return it with `?`. A helper function that has no context creates a `Stop` itself:
/// `country.parse().map_err(|error| Stop::reject("bad-country", error))?`.
#[derive(Debug)]
#[must_use = "an event is ignored or rejected only if its handler returns this value"]
pub struct Stop(Reason);

#[derive(Debug)]
enum Reason {
    Ignore {
        code: &'static str,
        detail: String,
    },
    Reject(Rejection),
    /// A row must be read first. The context knows which row.
    Suspend,
    /// The row of this call is missing, or not in the state that the event needs. The event waits for it.
    NotYet(LookupCall),
}

impl Stop {
    /// Ignores the event: nothing is wrong with it, and it changes nothing.
    ///
    /// The host counts ignored events by their code. The code must be declared in the projection's `ignores(...)`.
    pub fn ignore(code: &'static str, detail: impl Display) -> Self {
        Self(Reason::Ignore { code, detail: detail.to_string() })
    }

    /// Rejects the event: it cannot be projected, and the projection's failure policy decides what happens to it.
    ///
    /// The code must be declared in the projection's `rejects(...)`.
    pub fn reject(code: &'static str, detail: impl Display) -> Self {
        Self(Reason::Reject(Rejection::new(code, detail.to_string())))
    }

    pub(crate) fn rejected(rejection: Rejection) -> Self {
        Self(Reason::Reject(rejection))
    }

    pub(crate) fn suspend() -> Self {
        Self(Reason::Suspend)
    }

    pub(crate) fn not_yet(call: LookupCall) -> Self {
        Self(Reason::NotYet(call))
    }

    /// The answer to the host, if no rows must be read first.
    pub(crate) fn answer(self) -> Result<Answer, Rejection> {
        match self.0 {
            Reason::Ignore { code, detail } => Ok(Answer::Ignored { code: code.into(), detail }),
            Reason::Reject(rejection) => Err(rejection),
            Reason::Suspend => Ok(Answer::Needs(Vec::new())),
            // A need for a row that was already read means "not yet": see `needs` in `wit/v1/types.wit`.
            Reason::NotYet(call) => Ok(Answer::Needs(vec![call])),
        }
    }
}
