//! No cycle among the modules of a crate.
//!
//! Siblings that use each other, directly or through others, cannot be read one after the other. A module
//! may use what its parent declares, and a parent its children. A name that a module passes on with `use`
//! counts as a use of the module that declares it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::path::PathBuf;

use proc_macro2::{TokenStream, TokenTree};

use super::sources::{Crate, Module};
use super::violation::Violation;

type Names = Vec<String>;

/// Which child of one module uses which other, and in which lines.
type Uses = BTreeMap<(String, String), BTreeSet<(PathBuf, usize)>>;

pub(crate) fn check(krate: &Crate) -> Vec<Violation> {
    siblings(krate).iter().flat_map(|(parent, uses)| cycles(&krate.name, parent, uses)).collect()
}

/// The uses among siblings, by their parent.
fn siblings(krate: &Crate) -> BTreeMap<Names, Uses> {
    let tree = Tree(krate.modules.iter().map(|module| (module.path.clone(), imports(module))).collect());
    let mut found: BTreeMap<Names, Uses> = BTreeMap::new();
    for module in &krate.modules {
        for (path, line) in paths(module.tokens.iter().cloned().collect(), &[]) {
            // A path that starts with another name starts with what a `use` brings.
            if !["crate", "self", "super"].contains(&path[0].as_str()) {
                continue;
            }
            for target in tree.targets(&module.path, path) {
                let shared = module.path.iter().zip(&target).take_while(|(a, b)| a == b).count();
                if let (Some(from), Some(to)) = (module.path.get(shared), target.get(shared)) {
                    let uses = found.entry(target[..shared].to_vec()).or_default();
                    uses.entry((from.clone(), to.clone())).or_default().insert((module.file.clone(), line));
                }
            }
        }
    }
    found
}

/// The modules of a crate, each with the names that it takes from elsewhere.
struct Tree(BTreeMap<Names, BTreeMap<String, Names>>);

impl Tree {
    /// The modules that `path`, written in the module `from`, leads to: the one that declares the item, and
    /// those that pass it on.
    fn targets(&self, from: &[String], path: Names) -> BTreeSet<Names> {
        let mut targets = BTreeSet::new();
        let (mut at, mut path) = (from.to_vec(), Some(path));
        // So many imports in a row would be a cycle of imports.
        for _ in 0..16 {
            let Some(along) = path else { break };
            path = self.walk(&mut at, &along);
            targets.insert(at.clone());
        }
        targets
    }

    /// Goes from the module `at` along `path` as far as there are modules. Returns the rest of the way where
    /// an import leads elsewhere.
    fn walk(&self, at: &mut Names, path: &[String]) -> Option<Names> {
        for (done, name) in path.iter().enumerate() {
            match name.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => drop(at.pop()),
                _ => {
                    at.push(name.clone());
                    if !self.0.contains_key(at) {
                        at.pop();
                        let import = self.0.get(at)?.get(name)?;
                        return Some([&import[..], &path[done + 1..]].concat());
                    }
                }
            }
        }
        None
    }
}

/// The names that a module's `use` items bring, each with its path.
fn imports(module: &Module) -> BTreeMap<String, Names> {
    let mut imports = BTreeMap::new();
    for item in
        module.tokens.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';'))
    {
        let is_use = |token: &TokenTree| matches!(token, TokenTree::Ident(ident) if ident == "use");
        let Some(at) = item.iter().rposition(is_use) else { continue };
        let paths = paths(item[at + 1..].iter().cloned().collect(), &[]);
        let mut paths = paths.into_iter().map(|(path, _)| path).peekable();
        while let Some(path) = paths.next() {
            let mut name = path.iter().rfind(|name| *name != "self").cloned();
            if paths.next_if(|path| path.last().is_some_and(|last| last == "as")).is_some() {
                name = paths.next().and_then(|mut path| path.pop());
            }
            // `use tokio;` leads nowhere within the crate.
            imports.extend(name.filter(|name| *name != path[0]).map(|name| (name, path)));
        }
    }
    imports
}

/// What looks like a path in `tokens`, with its line. `before` is what stands before the braces of a `use`.
fn paths(tokens: TokenStream, before: &[String]) -> Vec<(Names, usize)> {
    let mut found = Vec::new();
    let (mut path, mut line, mut colons) = (Names::new(), 0, 0);
    for token in tokens {
        match &token {
            TokenTree::Punct(punct) if punct.as_char() == ':' => {
                colons += 1;
                continue;
            }
            TokenTree::Group(group) if colons == 2 => {
                found.extend(paths(group.stream(), &mem::take(&mut path)))
            }
            TokenTree::Ident(name) => {
                if colons != 2 {
                    found.push((mem::replace(&mut path, before.to_vec()), line));
                }
                path.push(name.to_string());
                line = name.span().start().line;
            }
            _ => {
                found.push((mem::take(&mut path), line));
                match token {
                    TokenTree::Group(group) => found.extend(paths(group.stream(), &[])),
                    // `#[serde(with = "crate::instant")]` names a module in a string.
                    TokenTree::Literal(literal) => {
                        let text = literal.to_string();
                        let names = text.trim_matches('"').split("::").map(str::to_owned);
                        found.push((names.collect(), literal.span().start().line));
                    }
                    TokenTree::Ident(_) | TokenTree::Punct(_) => {}
                }
            }
        }
        colons = 0;
    }
    found.push((path, line));
    found.retain(|(path, _)| !path.is_empty());
    found
}

/// For every cycle, the use that is most easily spared: the one of the shortest cycle, in the fewest lines.
fn cycles(krate: &str, parent: &[String], uses: &Uses) -> Vec<Violation> {
    let parent = [&[krate.to_owned()], parent].concat().join("::");
    let mut found = Vec::new();
    for (edge @ (from, to), lines) in uses {
        let Some(back) = way(uses, to, from) else { continue };
        let weight =
            |edge: &(String, String)| (way(uses, &edge.1, &edge.0).map(|way| way.len()), uses[edge].len());
        let others = back.windows(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned()));
        if others.into_iter().any(|other| (weight(&other), &other) < (weight(edge), edge)) {
            continue;
        }
        let what = format!("in {parent}, {from} uses {to}, which closes a cycle");
        let remedy = format!(
            "{}; move what both need to a module that uses neither, or pass it as an argument",
            back.join(" uses ")
        );
        found.extend(lines.first().map(|(file, line)| Violation::new(file, *line, what, remedy)));
    }
    found
}

/// The shortest way of uses between two modules, both named.
fn way<'a>(uses: &'a Uses, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut ways = VecDeque::from([vec![from]]);
    let mut seen = BTreeSet::from([from]);
    while let Some(way) = ways.pop_front() {
        let last = *way.last()?;
        if last == to {
            return Some(way);
        }
        for (_, next) in uses.keys().filter(|(user, _)| user == last) {
            if seen.insert(next) {
                ways.push_back([&way[..], &[next]].concat());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::sources::tests::crate_of;

    /// The violations in a crate with these files.
    fn shown(files: &[(&str, &str)]) -> Vec<String> {
        check(&crate_of(files)).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn two_siblings_that_use_each_other_are_a_cycle() {
        let a = "use crate::b::B;\npub struct A(B);";
        let b = "pub struct B;\nimpl B {\n    fn a(&self) -> Option<super::a::A> { None }\n}\nfn f(_: super::a::A) {}";
        let found = shown(&[("lib.rs", "mod a;\nmod b;"), ("a.rs", a), ("b.rs", b)]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("a.rs:1: in planted, a uses b, which closes a cycle: b uses a; "),
            "{found:?}"
        );
    }

    #[test]
    fn a_cycle_leads_through_other_modules_too() {
        let uses = |name: &str| format!("use super::{name}::*;");
        let (a, b, c) = (uses("b"), uses("c"), uses("a"));
        let files = [("lib.rs", "mod deep;"), ("deep/mod.rs", "mod a;\nmod b;\nmod c;")];
        let found = shown(&[&files[..], &[("deep/a.rs", &a), ("deep/b.rs", &b), ("deep/c.rs", &c)]].concat());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("in planted::deep, "), "{found:?}");
    }

    #[test]
    fn a_name_that_the_parent_passes_on_comes_from_its_module() {
        let root = "mod a;\nmod b;\npub use a::A as First;";
        assert_eq!(
            shown(&[("lib.rs", root), ("a.rs", "use crate::b::B;"), ("b.rs", "use crate::First;")]).len(),
            1
        );
    }

    #[test]
    fn macros_and_attributes_name_modules_too() {
        for b in ["fn f() { println!(\"{}\", crate::a::F) }", "struct B(#[serde(with = \"crate::a\")] u8);"] {
            let found = shown(&[("lib.rs", "mod a;\nmod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", b)]);
            assert_eq!(found.len(), 1, "{b}: {found:?}");
        }
    }

    #[test]
    fn parents_children_and_tests_make_no_cycle() {
        let root = "mod a;\nmod b;\nuse a::A;\npub const MOST: u8 = 1;";
        let a = "use crate::MOST;\nuse super::b::B;\nmod below { use super::A; }\nuse below::X;";
        let b = "#[cfg(test)]\nmod tests { use crate::a::A; }\n#[cfg(test)]\nuse crate::a::A;\n\
                 impl B { #[cfg(test)] fn f() -> crate::a::A {} }";
        let found = shown(&[("lib.rs", root), ("a.rs", a), ("b.rs", b)]);
        assert!(found.is_empty(), "{found:?}");
    }
}
