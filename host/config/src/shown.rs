//! Masks a configuration's text for display: lines around a mistake may contain passwords.

use std::ops::Range;

/// Replaces the content of every string and comment by asterisks, except in `span`. Every byte keeps its
/// place, so that a span is valid in both texts.
pub(super) fn masked(text: &str, span: Option<&Range<usize>>) -> String {
    let mut shown = String::with_capacity(text.len());
    // The end of the open string (its quotes) or comment (the line break).
    let mut until: Option<&str> = None;
    let mut at = 0;
    while let Some(character) = text[at..].chars().next() {
        let rest = &text[at..];
        let mut length = character.len_utf8();
        let is_kept = span.is_some_and(|span| span.contains(&at)) || character.is_whitespace();
        match until {
            None => {
                until = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quotes| rest.starts_with(quotes));
                length = until.map_or(length, str::len);
                if character == '#' {
                    until = Some("\n");
                }
                shown.push_str(&rest[..length]);
            }
            Some(end) if rest.starts_with(end) => {
                until = None;
                length = end.len();
                shown.push_str(end);
            }
            Some(end) => {
                // An escaped quote does not end a basic string.
                if character == '\\' && end.starts_with('"') {
                    length += rest[1..].chars().next().map_or(0, char::len_utf8);
                }
                for character in rest[..length].chars() {
                    match is_kept || character == '\n' {
                        true => shown.push(character),
                        false => shown.extend(std::iter::repeat_n('*', character.len_utf8())),
                    }
                }
            }
        }
        at += length;
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_comments_are_masked_and_keep_their_length() {
        let text = "a = \"hunter2 \\\" hunter2\" # hunter2\nb = 'hunter2'\nc = \"\"\"\nhunter2\"\"\"\nd = 1\n\"é\" = 2\n";
        let shown = masked(text, None);
        assert_eq!(
            shown,
            "a = \"******* ** *******\" # *******\nb = '*******'\nc = \"\"\"\n*******\"\"\"\nd = 1\n\"**\" = 2\n"
        );
        assert_eq!(shown.len(), text.len());
        assert!(masked(text, Some(&(0..text.len()))).contains("hunter2"));
        assert_eq!(masked("a = \"open", None), "a = \"****");
    }
}
