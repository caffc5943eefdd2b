//! Where in a document a reader gave up, in the document's own words: `order.items[2].qty`.

use std::fmt::Write;

/// What is open at a byte of a document.
enum Open<'j> {
    Object { key: Option<&'j [u8]> },
    Array { index: usize },
}

/// The path of what stands just before this line and column, which both count from 1 and in
/// bytes. Empty for the document itself. It is right as far as the document is JSON.
pub(super) fn path(json: &[u8], line: usize, column: usize) -> String {
    let line_start = json.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1));
    let end = line_start.map(<[u8]>::len).sum::<usize>().saturating_add(column).min(json.len());
    let mut open = Vec::new();
    let mut at = 0;
    while at < end {
        match json[at] {
            b'{' => open.push(Open::Object { key: None }),
            b'[' => open.push(Open::Array { index: 0 }),
            b'}' | b']' => drop(open.pop()),
            b',' => match open.last_mut() {
                Some(Open::Object { key }) => *key = None,
                Some(Open::Array { index }) => *index += 1,
                None => {}
            },
            b'"' => {
                let text = string(&json[at + 1..]);
                at += text.len() + 1;
                if let Some(Open::Object { key: key @ None }) = open.last_mut() {
                    *key = Some(text);
                }
            }
            _ => {}
        }
        at += 1;
    }
    written(&open)
}

/// What stands before the closing quote.
fn string(json: &[u8]) -> &[u8] {
    let mut end = 0;
    while end < json.len() && json[end] != b'"' {
        end += if json[end] == b'\\' { 2 } else { 1 };
    }
    &json[..end.min(json.len())]
}

fn written(open: &[Open<'_>]) -> String {
    let mut path = String::new();
    for step in open {
        match step {
            Open::Object { key: Some(key) } => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&String::from_utf8_lossy(key));
            }
            Open::Object { key: None } => {}
            Open::Array { index } => {
                let _ = write!(path, "[{index}]");
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[expect(dead_code, reason = "only its reading matters")]
        inner: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[expect(dead_code, reason = "only its reading matters")]
        n: u8,
    }

    fn place(json: &str) -> String {
        let error = serde_json::from_str::<Outer>(json).unwrap_err();
        path(json.as_bytes(), error.line(), error.column())
    }

    #[test]
    fn mistakes_are_found_where_they_are() {
        assert_eq!(place(r#"{"inner": [{"n": 1}, {"n": "x, y"}]}"#), "inner[1].n");
        assert_eq!(place(r#"{"inner": [{"n": 1}, {"n": 256, "m": 1}]}"#), "inner[1].n");
        assert_eq!(place("{\"a\\\"{\": [1],\n \"inner\":\n [{\"n\": true}]}"), "inner[0].n");
        assert_eq!(place(r#"{"inner": [{"m": 1}]}"#), "inner[0]");
        assert_eq!(place(r#"{"inner": 1}"#), "inner");
        assert_eq!(place("[]"), "");
        assert_eq!(place(""), "");
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(json in "[\\[\\]{}\",:\\\\a1\n]{0,60}", line in 0usize..5, column in 0usize..70) {
            path(json.as_bytes(), line, column);
        }
    }
}
