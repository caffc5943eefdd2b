//! Why a handler ends before its end.

use std::fmt::Display;

use projector_model::{LookupCall, Rejection};

use crate::record::Answer;

/// What a handler returns: `Ok(())` when its writes shall be applied.
pub type Outcome = Result<(), Stop>;

/// The end of a handler without writes: the event is ignored, or rejected, or waits, or a row is read first.
///
/// Handlers pass it on with `?`. A helper without a context makes one itself:
/// `country.parse().map_err(|error| Stop::reject("bad-country", error))?`.
#[derive(Debug)]
#[must_use = "an event is only ignored or rejected when its handler returns this"]
pub struct Stop(Reason);

#[derive(Debug)]
enum Reason {
    Ignore {
        code: &'static str,
        detail: String,
    },
    Reject(Rejection),
    /// A row is to be read first. The context knows which.
    Suspend,
    /// The row that was read is not there, or not as it must be: the event waits for it.
    NotYet(LookupCall),
}

impl Stop {
    /// Nothing is wrong with the event, and it changes nothing. It is counted by its code, which
    /// is declared in the projection's `ignores(...)`.
    pub fn ignore(code: &'static str, detail: impl Display) -> Self {
        Self(Reason::Ignore { code, detail: detail.to_string() })
    }

    /// The event cannot be projected: the projection's failure policy decides what becomes of it.
    /// The code is declared in the projection's `rejects(...)`.
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

    /// What the host is told, where no rows are to be read first.
    pub(crate) fn answer(self) -> Result<Answer, Rejection> {
        match self.0 {
            Reason::Ignore { code, detail } => Ok(Answer::Ignored { code: code.into(), detail }),
            Reason::Reject(rejection) => Err(rejection),
            Reason::Suspend => Ok(Answer::Needs(Vec::new())),
            // Needed although it was read: that is how the contract says "not yet".
            Reason::NotYet(call) => Ok(Answer::Needs(vec![call])),
        }
    }
}
