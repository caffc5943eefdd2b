//! The book in `docs/`, and the links of all Markdown files.
//!
//! Invariants: a relative link names a file that exists, and an anchor names one of its headings. A page of the book
//! links to pages of the book alone, since the built book holds nothing else. Every page is in `SUMMARY.md`.

mod code_map;
mod configuration;
mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo::{Cargo, succeed};

/// The release of mdBook that builds the book.
const MDBOOK: &str = "0.5.4";

/// The pages, below the repository.
const PAGES: &str = "docs/src";

pub(crate) fn run(cargo: &Cargo) -> Result<()> {
    check(cargo.root())?;
    let mdbook = ensure_mdbook(cargo)?;
    succeed(Command::new(mdbook).arg("build").arg(cargo.root().join("docs")))?;
    println!("the book: {}", cargo.target().join("book/index.html").display());
    Ok(())
}

/// Checks what the pages say against the repository.
pub(crate) fn check(root: &Path) -> Result<()> {
    check_links(root)?;
    code_map::check(root)?;
    configuration::check(root)?;
    sample::check(root)
}

/// Installs mdBook below `target`, once.
fn ensure_mdbook(cargo: &Cargo) -> Result<PathBuf> {
    let tools = cargo.target().join("tools");
    let mdbook = tools.join("bin/mdbook");
    let version = Command::new(&mdbook).arg("--version").output();
    let is_this_release =
        |output: &[u8]| String::from_utf8_lossy(output).trim().trim_start_matches("mdbook v") == MDBOOK;
    if version.is_ok_and(|output| is_this_release(&output.stdout)) {
        return Ok(mdbook);
    }
    let install = ["install", "mdbook", "--locked", "--version", MDBOOK];
    let features = ["--no-default-features", "--features", "search", "--root"];
    println!("cargo {} {} {} (once, some minutes)", install.join(" "), features.join(" "), tools.display());
    succeed(cargo.command(&[&install[..], &features[..]].concat()).arg(&tools))?;
    Ok(mdbook)
}

/// Checks all Markdown files below `root`. The error names each broken link with its file and line.
fn check_links(root: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    read_markdown(root, root, &mut files)?;
    let mut problems = Vec::new();
    for (path, text) in &files {
        for link in links(text) {
            if let Some(problem) = problem(root, &files, path, &link) {
                problems.push(format!("{}:{}: ({}): {problem}", path.display(), link.line, link.target));
            }
        }
    }
    problems.extend(pages_without_entry(&files));
    ensure!(problems.is_empty(), "links in Markdown files:\n{}", problems.join("\n"));
    Ok(())
}

/// Reads every Markdown file, by its path below `root`. Skips what cargo builds and what is hidden, except `.github`.
fn read_markdown(root: &Path, directory: &Path, files: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_skipped = name == "target" || (name.starts_with('.') && name != ".github");
        if path.is_dir() && !path.is_symlink() && !is_skipped {
            read_markdown(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            files.insert(path.strip_prefix(root)?.to_owned(), text);
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Link<'a> {
    line: usize,
    target: &'a str,
}

/// The lines of a Markdown text outside of fenced blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence: Option<&str> = None;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let begin = line.trim_start();
        let marker = ["```", "~~~"].into_iter().find(|marker| begin.starts_with(marker));
        match (fence, marker) {
            (None, Some(_)) => fence = marker,
            (Some(open), Some(marker)) if open == marker => fence = None,
            (None, None) => return Some((at + 1, line)),
            (Some(_), _) => {}
        }
        None
    })
}

/// Inline links, images, and definitions of references.
fn links(text: &str) -> Vec<Link<'_>> {
    let mut found = Vec::new();
    for (line, content) in prose(text) {
        let mut in_code = false;
        let mut rest = content;
        while let Some(at) = rest.find(['`', ']']) {
            let after = &rest[at + 1..];
            match rest.as_bytes()[at] {
                b'`' => in_code = !in_code,
                _ if in_code => {}
                _ => {
                    if let Some(target) =
                        after.strip_prefix('(').and_then(|inner| inner.split([')', ' ']).next())
                    {
                        found.push(Link { line, target });
                    }
                }
            }
            rest = after;
        }
        let is_definition = content.starts_with('[') && !content.starts_with("[^");
        if let Some((_, target)) = content.split_once("]: ").filter(|_| is_definition) {
            found.push(Link { line, target: target.split(' ').next().unwrap_or_default() });
        }
    }
    found
}

fn problem(root: &Path, files: &BTreeMap<PathBuf, String>, from: &Path, link: &Link<'_>) -> Option<String> {
    if link.target.contains("://") || link.target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.target.split_once('#').unwrap_or((link.target, ""));
    let to = match path {
        "" => from.to_owned(),
        path => resolve(from.parent().unwrap_or(Path::new("")).join(path).as_path())?,
    };
    if from.starts_with(PAGES) && !to.starts_with(PAGES) {
        return Some(format!("the built book does not hold {}: name the file instead", to.display()));
    }
    if !root.join(&to).exists() {
        return Some("there is no such file".to_owned());
    }
    let text = files.get(&to)?;
    let is_there = anchor.is_empty() || anchors(text).contains(anchor);
    (!is_there).then(|| format!("{} has no heading `#{anchor}`", to.display()))
}

/// A path without `.` and `..`.
fn resolve(path: &Path) -> Option<PathBuf> {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => resolved.push(name),
            Component::ParentDir if !resolved.pop() => return None,
            _ => {}
        }
    }
    Some(resolved)
}

/// What a link may name of a page: its headings, as mdBook and GitHub write them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect();
        // The second heading of a text is `text-1`.
        let mut unique = anchor.clone();
        for number in 1.. {
            if !anchors.contains(&unique) {
                break;
            }
            unique = format!("{anchor}-{number}");
        }
        anchors.insert(unique);
    }
    anchors
}

fn pages_without_entry(files: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let summary = Path::new(PAGES).join("SUMMARY.md");
    let Some(text) = files.get(&summary) else { return Vec::new() };
    let entries: BTreeSet<PathBuf> =
        links(text).iter().map(|link| Path::new(PAGES).join(link.target)).collect();
    let pages = files.keys().filter(|path| path.starts_with(PAGES) && **path != summary);
    pages
        .filter(|path| !entries.contains(*path))
        .map(|path| format!("{}: SUMMARY.md does not list this page", path.display()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problems of a repository that has these files.
    fn problems(files: &[(&str, &str)]) -> String {
        let root = std::env::temp_dir().join(format!("projector-links-{}-{:p}", std::process::id(), files));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("it is below the root")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        let result = check_links(&root);
        fs::remove_dir_all(&root).expect("the directory is there");
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn sound_links_are_accepted() {
        let page = "# A `b` c\n## Same\n## Same\n[x](#a-b-c) [y](sub/other.md#there) ![z](sub)\n\
                    `[code](none.md)` [web](https://example.org/none) [r]\n```\n[fenced](none.md)\n```\n[r]: #same-1\n";
        assert_eq!(problems(&[("README.md", page), ("sub/other.md", "## There\n[up](../README.md)")]), "");
    }

    #[test]
    fn a_broken_link_is_named_with_its_line() {
        let found = problems(&[("sub/a.md", "# A\n\n[x](none.md)\n[y](b.md#nowhere)"), ("sub/b.md", "# B")]);
        assert!(found.contains("sub/a.md:3: (none.md): there is no such file"), "{found}");
        assert!(found.contains("sub/a.md:4: (b.md#nowhere): sub/b.md has no heading `#nowhere`"), "{found}");
    }

    #[test]
    fn a_page_stays_in_the_book_and_in_its_summary() {
        let found = problems(&[
            ("docs/src/SUMMARY.md", "- [A](a.md)"),
            ("docs/src/a.md", "[code](../../README.md)"),
            ("docs/src/b.md", ""),
            ("README.md", ""),
        ]);
        assert!(
            found.contains("docs/src/a.md:1: (../../README.md): the built book does not hold README.md"),
            "{found}"
        );
        assert!(found.contains("docs/src/b.md: SUMMARY.md does not list this page"), "{found}");
    }

    #[test]
    fn the_links_of_this_repository_are_sound() {
        check_links(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace"))
            .expect("sound");
    }
}
