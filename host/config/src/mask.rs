//! Masks secrets in the configuration's text, since errors show parts of it.

use std::ops::Range;

/// A key whose name contains one of these parts holds a secret.
const SECRET: [&str; 6] = ["password", "secret", "token", "credential", ".pem", "jaas"];

/// Exceptions: keys that contain such a part and are not secret.
const OPEN: [&str; 2] = ["token-endpoint", "tokens"];

/// Replaces each byte of a secret by an asterisk: values of secret keys, and `user:password` in URLs. All
/// other bytes keep their places, so that positions in the text stay right. The text need not be valid
/// TOML, since it is shown for errors in invalid TOML too.
pub(super) fn mask(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let values = text.match_indices('=').filter(|(at, _)| is_secret(text, *at));
    for range in values.map(|(at, _)| value(text, at + 1)).chain(url_users(text)) {
        for byte in &mut bytes[range] {
            if !byte.is_ascii_whitespace() {
                *byte = b'*';
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether the key before this `=` holds a secret.
fn is_secret(text: &str, equals: usize) -> bool {
    let before = &text[..equals];
    let start = before.rfind(['\n', '{', ',']).map_or(0, |at| at + 1);
    is_secret_key(before[start..].trim().trim_matches(['"', '\'']))
}

/// Whether a key or a property of this name holds a secret.
pub fn is_secret_key(key: &str) -> bool {
    let key = OPEN.iter().fold(key.to_ascii_lowercase(), |key, open| key.replace(open, ""));
    SECRET.iter().any(|part| key.contains(part))
}

/// The range of the value after an `=`, without its quotes. Empty for a `${…}`, which is not a secret
/// itself.
fn value(text: &str, from: usize) -> Range<usize> {
    let start = from + text[from..].len() - text[from..].trim_start_matches([' ', '\t']).len();
    let rest = &text[start..];
    for quote in ["\"\"\"", "'''", "\"", "'"] {
        let Some(inner) = rest.strip_prefix(quote) else { continue };
        let end = match quote.len() {
            3 => inner.find(quote),
            _ => inner.find([quote.chars().next().unwrap_or('"'), '\n']),
        };
        let inner_start = start + quote.len();
        let inner = &inner[..end.unwrap_or(inner.len())];
        let is_reference = inner.starts_with("${") && inner.find('}') == Some(inner.len() - 1);
        return if is_reference { start..start } else { inner_start..inner_start + inner.len() };
    }
    let end = rest.find(['\n', ',', '}']).unwrap_or(rest.len());
    start..start + end
}

/// The range of `user:password` in every `scheme://user:password@host`.
fn url_users(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, scheme)| {
        let start = at + scheme.len();
        let rest = &text[start..];
        let end = rest.find(|character: char| character.is_whitespace() || "\"'".contains(character));
        let at = rest[..end.unwrap_or(rest.len())].rfind('@')?;
        Some(start..start + at)
    })
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn secrets_are_masked_and_everything_else_stays_in_its_place() {
        for (text, masked) in [
            ("password = \"hunter2\"\nbroker = 1", "password = \"*******\"\nbroker = 1"),
            (
                "sasl = { username = \"a\", password = 'b}c' }",
                "sasl = { username = \"a\", password = '***' }",
            ),
            ("password = hunter2 # unquoted", "password = ******* * ********"),
            (
                "\"ssl.key.pem\" = \"\"\"one\ntwo\"\"\"\nx = 1",
                "\"ssl.key.pem\" = \"\"\"***\n***\"\"\"\nx = 1",
            ),
            ("key-password = \"unclosed\nx = 1", "key-password = \"********\nx = 1"),
            ("url = \"postgres://me:p@ss@host/db\"", "url = \"postgres://*******@host/db\""),
            ("password = \"${KAFKA_PASSWORD}\"", "password = \"${KAFKA_PASSWORD}\""),
            ("token-endpoint = \"https://idp/token\"", "token-endpoint = \"https://idp/token\""),
            ("client-secret = \"ü\"", "client-secret = \"**\""),
            ("[admin.tokens.ann]\nmay = \"read\"", "[admin.tokens.ann]\nmay = \"read\""),
        ] {
            assert_eq!(mask(text), masked);
            assert_eq!(mask(text).len(), text.len());
        }
    }
}
