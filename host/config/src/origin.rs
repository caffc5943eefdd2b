//! The text of a configuration file, for errors that show a place in it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem, nearest_key};
use super::mask::mask;
use super::shown::masked;

/// Shared by all clones of a configuration.
#[derive(Clone, Default)]
pub(super) struct Origin {
    /// Used for errors only.
    pub(super) path: Arc<str>,
    pub(super) text: Arc<str>,
}

/// Leaves the text out, since it may contain secrets.
impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.path)
    }
}

impl Origin {
    /// An error at a place in the text.
    pub(super) fn at(&self, message: &str, span: Option<Range<usize>>) -> Box<ConfigError> {
        self.error(message.to_owned(), span, nearest_key(message))
    }

    /// An error at the place of the problem's key.
    pub(super) fn at_key(&self, problem: Problem) -> Box<ConfigError> {
        let help = problem.help.or_else(|| nearest_key(&problem.message));
        self.error(problem.message, self.find(&problem.key), help)
    }

    /// An error that shows a place in the text, with secrets masked.
    fn error(&self, message: String, span: Option<Range<usize>>, help: Option<String>) -> Box<ConfigError> {
        let shown = mask(&self.text);
        let start = span.as_ref().map_or(0, |span| span.start).min(shown.len());
        let is_secret =
            span.as_ref().is_some_and(|span| self.text.get(span.clone()) != shown.get(span.clone()));
        Box::new(ConfigError::Invalid {
            path: (*self.path).to_owned(),
            line: shown.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1,
            message: if is_secret { without_value(&message) } else { message },
            text: miette::NamedSource::new(&*self.path, masked(&shown, span.as_ref())),
            span: span.map(Into::into),
            help,
        })
    }

    /// The place of a key, which is given by the names of its tables and its own name. If the key is
    /// missing, the place of the innermost table that exists.
    fn find(&self, key: &[String]) -> Option<Range<usize>> {
        let root = DeTable::parse(&self.text).ok()?;
        let mut table = root.get_ref();
        let mut found = None;
        for name in key {
            let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == name) else { break };
            found = Some(key.span());
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        found
    }
}

/// Removes the value from serde's message: `invalid type: integer `5`, expected a string`.
fn without_value(message: &str) -> String {
    match (message.split_once(':'), message.rsplit_once(", expected ")) {
        (Some((what @ ("invalid type" | "invalid value"), _)), Some((_, expected))) => {
            format!("{what}: expected {expected}")
        }
        _ => message.to_owned(),
    }
}
