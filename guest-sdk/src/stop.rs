//! Why a handler ends before its end.

use std::fmt::Display;

use projector_model::Rejection;

use crate::record::Answer;

/// What a handler returns: `Ok(())` when its writes shall be applied.
pub type Outcome = Result<(), Stop>;

/// The end of a handler without writes: the event is ignored, or rejected, or a row is awaited.
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
    /// A row is awaited. The context knows which.
    Suspend,
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

    /// What the host is told, where no rows are awaited.
    pub(crate) fn answer(self) -> Result<Answer, Rejection> {
        match self.0 {
            Reason::Ignore { code, detail } => Ok(Answer::Ignored { code: code.into(), detail }),
            Reason::Reject(rejection) => Err(rejection),
            Reason::Suspend => Ok(Answer::Needs(Vec::new())),
        }
    }
}
