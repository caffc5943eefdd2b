//! How long a file, how wide a struct, and how many parameters a function may be.

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};

use super::sources::{Crate, File};
use super::violation::Violation;

const MOST_LINES: usize = 450;
const MOST_FIELDS: usize = 12;
const MOST_PARAMETERS: usize = 5;

/// A file gives its reason to be long within so many lines.
const FIRST_LINES: usize = 10;

pub(crate) fn check(krate: &Crate) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in &krate.files {
        found.extend(long(file));
        items(file, file.tokens.clone(), &mut found);
    }
    found
}

fn long(file: &File) -> Option<Violation> {
    let lines = file.text.lines().count() - file.test_lines;
    let is_reason = |line: &str| line.trim_start_matches(['/', '!', ' ']).starts_with("Long because");
    (lines > MOST_LINES && !file.text.lines().take(FIRST_LINES).any(is_reason)).then(|| {
        let remedy = format!(
            "it has {lines} without its tests; split it, or give the reason within its first {FIRST_LINES} \
             lines, as `//! Long because …`"
        );
        Violation::new(&file.path, 1, format!("longer than {MOST_LINES} lines"), remedy)
    })
}

/// Measures every function and struct in `tokens`.
fn items(file: &File, tokens: TokenStream, found: &mut Vec<Violation>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        match (token, tokens.get(at + 1)) {
            (TokenTree::Group(group), _) => items(file, group.stream(), found),
            (TokenTree::Ident(keyword), Some(TokenTree::Ident(name))) => {
                let body = body(&tokens[at + 2..]);
                if keyword == "fn" {
                    found.extend(body.and_then(|parameters| function(file, name, parameters)));
                } else if keyword == "struct" {
                    found.extend(body.and_then(|fields| structure(file, name, fields)));
                }
            }
            _ => {}
        }
    }
}

fn function(file: &File, name: &Ident, parameters: &Group) -> Option<Violation> {
    let is_self = |token: TokenTree| matches!(token, TokenTree::Ident(ident) if ident == "self");
    let count = parts(parameters) - usize::from(parameters.stream().into_iter().any(is_self));
    (count > MOST_PARAMETERS).then(|| {
        let what = format!("{name} has more than {MOST_PARAMETERS} parameters");
        let remedy = format!("it has {count}; join those that belong together in a struct");
        Violation::new(&file.path, name.span().start().line, what, remedy)
    })
}

fn structure(file: &File, name: &Ident, fields: &Group) -> Option<Violation> {
    let (count, line) = (parts(fields), name.span().start().line);
    let lines: Vec<_> = file.text.lines().take(line - 1).map(str::trim).collect();
    let mut above = lines.iter().rev().take_while(|line| line.starts_with(['/', '#']));
    let reason = format!("// lint: {count} fields, because ");
    let is_wide = fields.delimiter() == Delimiter::Brace && count > MOST_FIELDS;
    (is_wide && !above.any(|line| line.starts_with(&reason))).then(|| {
        let what = format!("{name} has more than {MOST_FIELDS} fields");
        let remedy = format!(
            "it has {count}; join those that belong together in structs of their own, or give the reason \
             directly above, as `{reason}…`"
        );
        Violation::new(&file.path, line, what, remedy)
    })
}

/// The parameters of a function or the fields of a struct: the first group after the generic parameters.
fn body(tokens: &[TokenTree]) -> Option<&Group> {
    let mut depth = Depth::default();
    let ends = |token: &&TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';');
    tokens.iter().take_while(|token| !ends(token)).find_map(|token| match (depth.after(token), token) {
        (0, TokenTree::Group(group)) => Some(group),
        _ => None,
    })
}

/// Into how many parts commas divide a group.
fn parts(group: &Group) -> usize {
    let mut depth = Depth::default();
    let (mut parts, mut is_in_part) = (0, false);
    for token in group.stream() {
        let is_comma = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',');
        let divides = depth.after(&token) == 0 && is_comma;
        parts += usize::from(!divides && !is_in_part);
        is_in_part = !divides;
    }
    parts
}

/// How many angle brackets are open. They are no groups of tokens, since they are operators elsewhere.
#[derive(Default)]
struct Depth {
    open: usize,
    is_after_minus: bool,
}

impl Depth {
    fn after(&mut self, token: &TokenTree) -> usize {
        let sign = if let TokenTree::Punct(punct) = token { punct.as_char() } else { ' ' };
        match sign {
            '<' => self.open += 1,
            // `->` closes nothing.
            '>' if !self.is_after_minus => self.open = self.open.saturating_sub(1),
            _ => {}
        }
        self.is_after_minus = sign == '-';
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::sources::tests::crate_of;

    fn shown(text: &str) -> Vec<String> {
        check(&crate_of(&[("lib.rs", text)])).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn a_long_file_needs_a_reason_and_its_tests_do_not_count() {
        let lines = "const A: u8 = 1;\n".repeat(MOST_LINES);
        assert!(shown(&lines).is_empty());
        assert!(shown(&format!("{lines}#[cfg(test)]\nmod tests {{\n{lines}}}")).is_empty());
        let found = shown(&format!("{lines}{lines}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("lib.rs:1: longer than 450 lines: it has 900 "), "{found:?}");
        assert!(shown(&format!("//! Numbers.\n//! Long because each is named.\n{lines}")).is_empty());
    }

    #[test]
    fn a_wide_struct_needs_a_reason_with_its_number_of_fields() {
        let wide = |above: &str, fields: usize| {
            let fields: String = (0..fields).map(|n| format!("f{n}: u8, ")).collect();
            shown(&format!("{above}\n/// A.\n#[derive(Debug)]\npub struct Wide {{ {fields} }}"))
        };
        assert!(wide("", 12).is_empty());
        let fields = "f: u8, ".repeat(13);
        assert_eq!(shown(&format!("struct Unit; struct Wide {{ {fields} }}")).len(), 1);
        let found = wide("", 13);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("lib.rs:4: Wide has more than 12 fields: it has 13; "), "{found:?}");
        assert!(wide("// lint: 13 fields, because it is a row of the database.", 13).is_empty());
        assert_eq!(wide("// lint: 13 fields, because it is a row of the database.", 14).len(), 1);
    }

    #[test]
    fn a_function_has_five_parameters_beside_self() {
        let parameters = |count: usize| (0..count).map(|n| format!("p{n}: u8, ")).collect::<String>();
        let (five, six) = (parameters(5), parameters(6));
        assert!(shown(&format!("fn f({five}) {{}}\nimpl A {{ fn g(&self, {five}) {{}} }}")).is_empty());
        let found =
            shown(&format!("impl A {{\n    fn f(&self, {six}) {{}}\n}}\ntrait T {{\n    fn g({six});\n}}"));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("lib.rs:2: f has more than 5 parameters: it has 6; "), "{found:?}");
        assert!(found[1].starts_with("lib.rs:5: g has more than 5 parameters"), "{found:?}");
    }
}
