//! Formats an event's payload for a terminal, in full or cut to a bound.

use serde::de::IgnoredAny;

/// Bytes of a payload that are shown.
pub(super) const SHOWN_BYTES: usize = 16 * 1024;
/// Characters of a key, a header or a reason that are shown.
pub(super) const SHOWN_CHARACTERS: usize = 1_000;

/// A payload as text: JSON is indented, bytes that are not UTF-8 become hexadecimal digits. At most `most`
/// bytes of text. Also returns whether the text is complete.
pub(super) fn text(payload: &[u8], most: usize) -> (String, bool) {
    // The text never needs more than this many bytes of the payload.
    let head = &payload[..payload.len().min(most)];
    let mut text = match std::str::from_utf8(head) {
        Ok(text) if head.len() == payload.len() && is_json(text) => indented(text, most),
        Ok(text) => text.to_owned(),
        // The cut splits a character.
        Err(error) if head.len() < payload.len() && error.error_len().is_none() => {
            String::from_utf8_lossy(&head[..error.valid_up_to()]).into_owned()
        }
        Err(_) => hex::encode(&head[..head.len().min(most / 2)]),
    };
    let is_hex = std::str::from_utf8(head).is_err_and(|error| error.error_len().is_some());
    let mut is_all = head.len() == payload.len() && !(is_hex && head.len() > most / 2);
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        is_all = false;
    }
    (escaped(&text), is_all)
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Escapes control characters, of a text of any length.
pub(super) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            control if control.is_control() => shown.extend(control.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}

/// Indents JSON. Digits, names and the order of members stay as they are. Ends soon after `most` bytes.
fn indented(json: &str, most: usize) -> String {
    let mut out = String::new();
    let (mut depth, mut in_text, mut is_escaped) = (0_usize, false, false);
    let mut characters = json.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(character) = characters.next() {
        if out.len() > most {
            break;
        }
        if in_text {
            out.push(character);
            match character {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = true,
                '"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match character {
            ' ' | '\t' | '\n' | '\r' => {}
            '{' | '[' => {
                out.push(character);
                while characters.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                match characters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(character);
            }
            ',' => {
                out.push(character);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            '"' => {
                in_text = true;
                out.push(character);
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_no_digit_is_lost() {
        let (shown, is_all) = text(br#"{"a":[1.10,{}, 12345678901234567890.12],"t":"x\",{"}"#, SHOWN_BYTES);
        assert_eq!(
            shown,
            "{\n  \"a\": [\n    1.10,\n    {},\n    12345678901234567890.12\n  ],\n  \"t\": \"x\\\",{\"\n}"
        );
        assert!(is_all);
    }

    #[test]
    fn no_more_is_shown_than_asked_for_whatever_the_payload() {
        let nested = [b"[".repeat(100), b"]".repeat(100)].concat();
        let payloads = [vec![b'a'; 7_000_000], vec![0xff; 5_000], "é".repeat(5_000).into_bytes(), nested];
        for payload in payloads {
            let (shown, is_all) = text(&payload, 999);
            assert!(shown.len() <= 999 && shown.len() > 900 && !is_all, "{}", shown.len());
        }
        assert_eq!(text(b"\x1b[2J", 99), ("\\u{1b}[2J".to_owned(), true));
        assert_eq!(text(&[0xff, 0], 99), ("ff00".to_owned(), true));
        assert_eq!(text("é".as_bytes(), usize::MAX).0, "é");
    }
}
