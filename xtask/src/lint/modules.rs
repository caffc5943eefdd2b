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
type Uses = BTreeMap<String, BTreeMap<String, Lines>>;
type Lines = BTreeSet<(PathBuf, usize)>;

pub(crate) fn check(krate: &Crate) -> Vec<Violation> {
    siblings(krate).into_iter().flat_map(|(parent, uses)| cycles(&krate.name, &parent, uses)).collect()
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
                    let lines = uses.entry(from.clone()).or_default().entry(to.clone()).or_default();
                    lines.insert((module.file.clone(), line));
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

/// The uses to give up so that no cycle is left.
fn cycles(krate: &str, parent: &[String], mut uses: Uses) -> Vec<Violation> {
    let parent = [&[krate.to_owned()], parent].concat().join("::");
    let mut found = Vec::new();
    while let Some((from, to)) = worst(&uses) {
        let ways = ways(&uses, &to);
        let mut back = vec![from.as_str()];
        while let Some(user) = back.last().filter(|last| **last != to).and_then(|last| ways.get(last)) {
            back.push(user);
        }
        back.reverse();
        let what = format!("in {parent}, {from} uses {to}, which closes a cycle");
        let remedy = format!(
            "{}; move what both need to a module that uses neither, or pass it as an argument",
            back.join(" uses ")
        );
        let lines = without(&mut uses, &from, &to);
        found.extend(lines.first().map(|(file, line)| Violation::new(file, *line, what, remedy)));
    }
    found
}

/// Of the uses that are part of a cycle, the one without which the fewest are; of these, one in few lines.
fn worst(uses: &Uses) -> Option<(String, String)> {
    let left_without = |(from, to): &(String, String)| {
        let mut uses = uses.clone();
        let lines = without(&mut uses, from, to);
        (in_cycles(&uses).len(), lines.len())
    };
    in_cycles(uses).into_iter().min_by_key(left_without)
}

/// Takes one use out. Returns its lines.
fn without(uses: &mut Uses, from: &str, to: &str) -> Lines {
    uses.get_mut(from).and_then(|used| used.remove(to)).unwrap_or_default()
}

/// The uses that are part of a cycle.
fn in_cycles(uses: &Uses) -> Vec<(String, String)> {
    let ways: BTreeMap<_, _> = uses.keys().map(|user| (user, ways(uses, user))).collect();
    let pairs = uses.iter().flat_map(|(from, used)| used.keys().map(move |to| (from, to)));
    let closes =
        |(from, to): &(&String, &String)| ways.get(to).is_some_and(|ways| ways.contains_key(from.as_str()));
    pairs.filter(closes).map(|(from, to)| (from.clone(), to.clone())).collect()
}

/// Every module that `start` uses, directly or through others, with the one before it on the shortest way.
fn ways<'a>(uses: &'a Uses, start: &'a str) -> BTreeMap<&'a str, &'a str> {
    let mut ways = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(user) = next.pop_front() {
        for used in uses.get(user).into_iter().flat_map(BTreeMap::keys) {
            if !ways.contains_key(used.as_str()) {
                ways.insert(used.as_str(), user);
                next.push_back(used);
            }
        }
    }
    ways
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
    fn the_one_use_that_runs_against_the_others_is_named() {
        let event = "use crate::supervisor::Supervisor;";
        let (user, all) = ("use crate::event::Event;", "use crate::{a, b, event};");
        let files = [("lib.rs", "mod a; mod b; mod event; mod supervisor;"), ("event.rs", event)];
        let found = shown(&[&files[..], &[("a.rs", user), ("b.rs", user), ("supervisor.rs", all)]].concat());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("event.rs:1: in planted, event uses supervisor, "), "{found:?}");
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
