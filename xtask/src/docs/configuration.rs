//! The configuration reference of the book against `projector.toml`.
//!
//! A test of the host compares `projector.toml` with its types. So the page is true if it has the keys of that file, and
//! no others, with the same defaults.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const PAGE: &str = "docs/src/operators/configuration.md";
const EXAMPLE: &str = "projector.toml";

/// Sections whose keys stand in the example with their defaults. The others have example values.
const WITH_DEFAULTS: [&str; 7] = ["", "[plugins]", "[deploy]", "[keep]", "[failures]", "[batch]", "[limits]"];

/// Examples in that file that are no defaults.
const EXAMPLES: [&str; 3] = ["directory", "lock", "projections"];

pub(super) fn check(root: &Path) -> Result<()> {
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    let problems = problems(&read(EXAMPLE)?, &read(PAGE)?);
    ensure!(problems.is_empty(), "{PAGE} and {EXAMPLE} differ:\n{}", problems.join("\n"));
    Ok(())
}

fn problems(example: &str, page: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut section = String::new();
    for line in example.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if line.starts_with('[') {
            section = line.split_inclusive(']').next().unwrap_or_default().to_owned();
        }
        let Some((key, value)) = line.split_once(" = ") else { continue };
        let key = key.trim_matches('"');
        let is_topic = section == "[kafka.topics]" || section.ends_with(".start]");
        if is_topic || key.contains(' ') {
            continue;
        }
        // The value ends before its comment.
        let value = value.split("  ").next().unwrap_or(value);
        let is_default = WITH_DEFAULTS.contains(&&*section) && !EXAMPLES.contains(&key);
        let row = if is_default { format!("| `{key}` | `{value}` |") } else { format!("`{key}`") };
        if !page.contains(&row) {
            problems.push(format!("the page has no {row}"));
        }
    }
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let keys = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|key| !key.starts_with('['));
    problems
        .extend(keys.filter(|key| !example.contains(key)).map(|key| format!("the example has no `{key}`")));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_key_with_its_default() {
        check(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace"))
            .expect("alike");
    }

    #[test]
    fn a_key_or_a_default_that_differs_is_named() {
        let example = "# [limits]\n# fuel = 7      # a unit\n# time = \"2s\"\n";
        let page = "| `fuel` | `8` | |\n| `time` | `\"2s\"` | |\n| `tine` | | |\n";
        assert_eq!(
            problems(example, page),
            ["the page has no | `fuel` | `7` |", "the example has no `tine`"]
        );
    }
}
