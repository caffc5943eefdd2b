//! The sources of a crate: its files, and the modules that they declare, as tokens.
//!
//! What exists only for tests is left out: whatever has `#[cfg(test)]`, and a module whose `#[path]` leads into
//! another crate.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use serde_json::Value;

use crate::cargo::Cargo;

/// A library or a program.
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) files: Vec<File>,
    pub(crate) modules: Vec<Module>,
}

pub(crate) struct File {
    /// Relative to the workspace.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) tokens: TokenStream,
    /// How many lines exist only for tests.
    pub(crate) test_lines: usize,
}

pub(crate) struct Module {
    /// The names from the crate's root to this module; empty for the root.
    pub(crate) path: Vec<String>,
    pub(crate) file: PathBuf,
    /// What the module declares, without the modules below it.
    pub(crate) tokens: Vec<TokenTree>,
}

/// Reads the libraries and programs of the workspace.
pub(crate) fn read(cargo: &Cargo) -> Result<Vec<Crate>> {
    let is_read = |kind: &Value| ["lib", "proc-macro", "cdylib", "bin"].iter().any(|one| kind == one);
    let targets = cargo.packages().filter_map(|package| package["targets"].as_array()).flatten();
    targets
        .filter(|target| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(is_read)))
        .map(|target| {
            let name = target["name"].as_str().context("cargo metadata: a target has no name")?;
            let file = target["src_path"].as_str().context("cargo metadata: a target has no file")?;
            Crate::read(name, cargo.root(), Path::new(file).strip_prefix(cargo.root())?)
        })
        .collect()
}

impl Crate {
    /// Reads the crate whose root is `file`, relative to the workspace at `root`.
    fn read(name: &str, root: &Path, file: &Path) -> Result<Crate> {
        let mut read = Crate { name: name.to_owned(), files: Vec::new(), modules: Vec::new() };
        let directory = root.join(file.parent().unwrap_or(Path::new("")));
        read.add_file(root, &root.join(file), &directory, Vec::new())?;
        Ok(read)
    }

    /// Adds a file; the files of the modules that it declares are in `directory`.
    fn add_file(&mut self, root: &Path, file: &Path, directory: &Path, path: Vec<String>) -> Result<()> {
        let shown = file.strip_prefix(root)?.to_owned();
        let text = fs::read_to_string(file).with_context(|| shown.display().to_string())?;
        let tokens = text.parse().map_err(|error| anyhow!("{}: {error}", shown.display()))?;
        let mut test_lines = 0;
        let tokens = without_tests(tokens, &mut test_lines);
        self.files.push(File { path: shown.clone(), text, tokens: tokens.clone(), test_lines });
        let mut modules = vec![(path, directory.to_owned(), tokens)];
        while let Some((path, directory, tokens)) = modules.pop() {
            let mut own = Vec::new();
            for token in tokens {
                own.push(token);
                let [.., TokenTree::Ident(keyword), TokenTree::Ident(name), end] = &own[..] else { continue };
                if keyword != "mod" {
                    continue;
                }
                let path = [&path[..], &[name.to_string()]].concat();
                let below = directory.join(name.to_string());
                match end {
                    TokenTree::Group(body) => modules.push((path, below, body.stream())),
                    _ => {
                        let flat = below.with_extension("rs");
                        let file = if flat.exists() { flat } else { below.join("mod.rs") };
                        self.add_file(root, &file, &below, path)?;
                    }
                }
                own.truncate(own.len() - 3);
            }
            self.modules.push(Module { path, file: shown.clone(), tokens: own });
        }
        Ok(())
    }
}

/// Leaves out the items that exist only for tests, and adds their lines to `test_lines`.
fn without_tests(tokens: TokenStream, test_lines: &mut usize) -> TokenStream {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let is_hash = matches!(token, TokenTree::Punct(punct) if punct.as_char() == '#');
        let length = match tokens.get(at + 1) {
            Some(TokenTree::Group(attribute)) if is_hash && is_for_tests(attribute) => {
                tokens[at..].iter().position(ends_item).map_or(tokens.len() - at, |end| end + 1)
            }
            _ => 0,
        };
        if let Some(last) = tokens[at..at + length].last() {
            *test_lines += last.span().end().line + 1 - token.span().start().line;
            at += length;
            continue;
        }
        kept.push(match token {
            TokenTree::Group(group) => {
                let mut group = Group::new(group.delimiter(), without_tests(group.stream(), test_lines));
                group.set_span(token.span());
                TokenTree::Group(group)
            }
            _ => token.clone(),
        });
        at += 1;
    }
    kept.into_iter().collect()
}

fn ends_item(token: &TokenTree) -> bool {
    match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        _ => false,
    }
}

/// `[cfg(test)]`, `[cfg(all(test, …))]`, `[path = "…"]`.
fn is_for_tests(attribute: &Group) -> bool {
    let text = attribute.stream().to_string();
    let words: Vec<_> = text.split(|c: char| !c.is_alphanumeric()).collect();
    match words[0] {
        "cfg" => words.contains(&"test") && !words.contains(&"not"),
        first => first == "path",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A crate with these files; `lib.rs` is its root.
    pub(crate) fn crate_of(files: &[(&str, &str)]) -> Crate {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (file, text) in files {
            let file = directory.path().join(file);
            fs::create_dir_all(file.parent().expect("a file has a directory")).expect("to make a directory");
            fs::write(file, text).expect("to write a file");
        }
        Crate::read("planted", directory.path(), Path::new("lib.rs")).expect("to read the crate")
    }
}
