//! A string of the configuration, in which variables and files are replaced.

use std::fmt;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

/// A string in which `${NAME}` is replaced by an environment variable, and `${file:/path}` by the content
/// of a file, without the line break at its end. The path may itself contain `${NAME}`.
///
/// Kubernetes and systemd mount secrets as files, and replace the files when a secret changes:
/// [`Text::current`] reads them again.
///
/// Its `Debug` output hides the text, since secrets have this type.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    /// The text as written in the configuration.
    written: String,
    /// The text after replacement, when it was read.
    value: String,
}

/// Why a string cannot be replaced. Never contains the content of a variable or file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("`${{` without its `}}`")]
    Unclosed,
    #[error("the environment variable {0} is not set")]
    NoVariable(String),
    #[error("`${{file:{}}}`: write an absolute path", .0.display())]
    RelativePath(PathBuf),
    #[error("the file {} cannot be read: {reason}", path.display())]
    UnreadableFile { path: PathBuf, reason: String },
}

impl Text {
    fn new(written: String) -> Result<Self, TextError> {
        let value = expand(&written, &from_environment)?;
        Ok(Self { written, value })
    }

    /// Replaces again, with the current content of files.
    pub fn current(&self) -> Result<String, TextError> {
        expand(&self.written, &from_environment)
    }

    /// Whether the string contains a file, so that its value can change while the host runs.
    pub fn is_from_file(&self) -> bool {
        self.written.contains("${file:")
    }

    /// A path, resolved against a directory.
    pub(super) fn as_path_below(&self, base: &Path) -> Text {
        Text::from(&*base.join(&self.value).display().to_string())
    }

    /// The URL of a SQLite file, resolved against a directory. Any other URL is unchanged.
    pub(super) fn as_url_below(&self, base: &Path) -> Text {
        match self.value.strip_prefix("sqlite://") {
            Some(file) => Text::from(&*format!("sqlite://{}", base.join(file).display())),
            None => self.clone(),
        }
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"…\"")
    }
}

/// Takes the text as it is: nothing in it is replaced.
impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self { written: text.to_owned(), value: text.to_owned() }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The value of a reference, given the text between `${` and `}`.
fn from_environment(name: &str) -> Result<String, TextError> {
    let Some(path) = name.strip_prefix("file:") else {
        return std::env::var(name).map_err(|_| TextError::NoVariable(name.to_owned()));
    };
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(TextError::RelativePath(path));
    }
    match fs::read_to_string(&path) {
        Ok(content) => {
            let line = content.strip_suffix('\n').unwrap_or(&content);
            Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
        }
        Err(error) => Err(TextError::UnreadableFile { path, reason: error.to_string() }),
    }
}

/// Replaces every `${…}`, the innermost first. Replaced text is not replaced again.
fn expand(written: &str, variable: &impl Fn(&str) -> Result<String, TextError>) -> Result<String, TextError> {
    let mut text = String::with_capacity(written.len());
    let mut rest = written;
    while let Some((before, after)) = rest.split_once("${") {
        let end = closing_brace(after).ok_or(TextError::Unclosed)?;
        text.push_str(before);
        text.push_str(&variable(&expand(&after[..end], variable)?)?);
        rest = &after[end + 1..];
    }
    Ok(text + rest)
}

/// The place of the `}` that closes a `${` just before `text`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if at > 0 && bytes[at - 1] == b'$' => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(written: &str) -> Result<String, TextError> {
        expand(written, &|name| match name {
            "PASSWORD" => Ok("s$cret${PASSWORD}".to_owned()),
            "DIRECTORY" => Ok("/run".to_owned()),
            "file:/run/secret" => Ok("from a file".to_owned()),
            other => Err(TextError::NoVariable(other.to_owned())),
        })
    }

    #[test]
    fn variables_and_files_are_put_in_once() {
        assert_eq!(expanded("a${PASSWORD}b"), Ok("as$cret${PASSWORD}b".into()));
        assert_eq!(expanded("${file:${DIRECTORY}/secret}!"), Ok("from a file!".into()));
        assert_eq!(expanded("${NOPE}"), Err(TextError::NoVariable("NOPE".into())));
        assert_eq!(expanded("${PASSWORD"), Err(TextError::Unclosed));
        assert_eq!(expanded("${file:${DIRECTORY/secret}"), Err(TextError::Unclosed));
    }

    #[test]
    fn a_file_that_is_replaced_is_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        fs::write(&path, "one\n").expect("written");
        let text = Text::new(format!("<${{file:{}}}>", path.display())).expect("readable");
        assert_eq!((&*text, text.is_from_file()), ("<one>", true));
        fs::write(&path, "two\r\n").expect("written");
        assert_eq!(text.current(), Ok("<two>".into()));
        fs::remove_file(&path).expect("removed");
        let error = text.current().expect_err("it is gone").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        let relative = Text::new("${file:password}".into()).expect_err("no absolute path");
        assert_eq!(relative.to_string(), "`${file:password}`: write an absolute path");
    }
}
