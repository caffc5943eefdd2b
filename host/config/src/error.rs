//! Why a configuration cannot be used.

use projector_model::nearest;

/// Why a configuration cannot be used: the file, the place in it, and what to write instead.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ConfigError {
    #[error("{path} cannot be read: {source}")]
    #[diagnostic(help("name the configuration file with --config"))]
    Unreadable { path: String, source: std::io::Error },
    #[error("{path}:{line}: {message}")]
    Invalid {
        path: String,
        line: usize,
        message: String,
        #[source_code]
        text: miette::NamedSource<String>,
        #[label("here")]
        span: Option<miette::SourceSpan>,
        #[help]
        help: Option<String>,
    },
}

/// A configuration key whose value cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The names of the tables around the key, and the key's own name.
    pub key: Vec<String>,
    pub message: String,
    pub help: Option<String>,
}

impl Problem {
    /// A problem of a key, which is written as in `kafka.sasl.username`. For a key whose names contain no
    /// dots.
    pub fn of(key: &str, message: impl Into<String>) -> Self {
        Self::of_path(key.split('.').map(str::to_owned).collect(), message)
    }

    /// A problem of a librdkafka property in `[kafka.properties]`.
    pub fn of_property(property: &str, message: impl Into<String>) -> Self {
        Self::of_path(["kafka", "properties", property].map(str::to_owned).into(), message)
    }

    /// A problem of a key, which is given by the names of its tables and its own name.
    pub(super) fn of_path(key: Vec<String>, message: impl Into<String>) -> Self {
        Self { key, message: message.into(), help: None }
    }
}

/// "did you mean" for serde's message about an unknown field or variant.
pub(super) fn nearest_key(message: &str) -> Option<String> {
    let (unknown, expected) = message.split_once(", expected ")?;
    let given = unknown.split('`').nth(1)?;
    let known = expected.split('`').skip(1).step_by(2);
    nearest(given, known).map(|nearest| format!("did you mean `{nearest}`?"))
}

/// "did you mean" for a librdkafka property.
pub fn nearest_property<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    nearest(given, known).map(|nearest| format!("did you mean `{nearest}`?"))
}
