//! The sample plugin that readers copy is the one that the SDK's documentation test compiles.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const COMPILED: &str = "guest-sdk/src/lib.rs";
const PAGES: [&str; 2] = ["README.md", "docs/src/authors/first-plugin.md"];

pub(super) fn check(root: &Path) -> Result<()> {
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    let sample = sample(&read(COMPILED)?).with_context(|| format!("{COMPILED} has no sample"))?;
    for page in PAGES {
        ensure!(
            read(page)?.contains(&sample),
            "{page} does not show the sample of {COMPILED} as it is there"
        );
    }
    Ok(())
}

/// The first code block of a file's head.
fn sample(source: &str) -> Option<String> {
    let head: Vec<&str> = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let begin = head.iter().position(|line| line.starts_with("```"))? + 1;
    let end = begin + head[begin..].iter().position(|line| line.starts_with("```"))?;
    Some(head[begin..end].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_the_sample_that_is_compiled() {
        check(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace"))
            .expect("alike");
    }

    #[test]
    fn the_sample_is_the_first_block() {
        assert_eq!(
            sample("//! Text.\n//!\n//! ```\n//! a\n//!\n//! b\n//! ```\n").as_deref(),
            Some("a\n\nb")
        );
        assert_eq!(sample("//! Text.\ncode"), None);
    }
}
