//! What is wrong with a descriptor, where, and what to write instead.
//!
//! Why: an author mends a descriptor between two builds. So a check reports all problems at once, each with its
//! place and, where one is known, a remedy.
//!
//! Invariant: a check of any descriptor ends soon and prints little. After [`MAX_PROBLEMS`] problems, further ones are
//! only counted, and no remedy is computed for them.

use std::fmt;

/// One thing that is wrong with a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place in the descriptor: `statements[2] "country-of-orders": set[0]`.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead, if the check knows it.
    pub remedy: Option<String>,
}

/// Everything that is wrong with a descriptor, in the descriptor's order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// One line for each problem.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// So many problems are reported in full.
pub(crate) const MAX_PROBLEMS: usize = 100;

/// The problems that a running check has found so far.
#[derive(Default)]
pub(crate) struct Report {
    problems: Vec<Problem>,
    /// How many problems were found beyond [`MAX_PROBLEMS`].
    omitted: usize,
}

impl Report {
    pub(crate) fn add(&mut self, place: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(place, message, || Some(remedy.into()));
    }

    pub(crate) fn add_without_remedy(&mut self, place: &str, message: impl Into<String>) {
        self.push(place, message, || None);
    }

    /// A name that is not among the known ones. The remedy is the known name that is most like the given one.
    pub(crate) fn add_unknown<'a>(
        &mut self,
        place: &str,
        message: impl Into<String>,
        given: &str,
        known: impl Iterator<Item = &'a str>,
    ) {
        self.push(place, message, || nearest(given, known).map(|nearest| format!("write `{nearest}`")));
    }

    /// Ends the check, or a stage of it. The error holds all problems that were added.
    pub(crate) fn finish(self) -> Result<(), Problems> {
        let Self { mut problems, omitted } = self;
        if omitted > 0 {
            let message = format!("{omitted} more problems are not shown");
            problems.push(Problem { place: "and so on".into(), message, remedy: None });
        }
        if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
    }

    fn push(&mut self, place: &str, message: impl Into<String>, remedy: impl FnOnce() -> Option<String>) {
        if self.problems.len() >= MAX_PROBLEMS {
            self.omitted += 1;
            return;
        }
        self.problems.push(Problem { place: place.into(), message: message.into(), remedy: remedy() });
    }
}

/// The remedy for serde's message "unknown field `x`, expected one of `a`, `b`": the expected word that is most like
/// the unknown one.
pub(crate) fn remedy_for_unknown_field(message: &str) -> Option<String> {
    let (unknown, expected) = message.split_once(", expected ")?;
    let quoted =
        |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let given = quoted(unknown).pop()?;
    let known = quoted(expected);
    let nearest = nearest(&given, known.iter().map(String::as_str))?;
    Some(format!("write `{nearest}`"))
}

/// The known word that is most like the given one. `None` if no known word is much like it.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|word| (strsim::jaro_winkler(given, word), word))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}
