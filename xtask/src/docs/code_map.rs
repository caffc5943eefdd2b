//! The code map in ARCHITECTURE.md names files and directories that exist.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const PAGE: &str = "ARCHITECTURE.md";

pub(super) fn check(root: &Path) -> Result<()> {
    let text = fs::read_to_string(root.join(PAGE)).context(PAGE)?;
    let missing: Vec<&str> = paths(&text).filter(|path| !root.join(path).exists()).collect();
    ensure!(missing.is_empty(), "{PAGE}: the code map names what does not exist: {}", missing.join(", "));
    Ok(())
}

/// What stands in backticks in a table, and has a slash.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let rows = text.lines().filter(|line| line.starts_with("| "));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(|code| code.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_map_names_what_exists() {
        check(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace"))
            .expect("sound");
    }

    #[test]
    fn paths_are_the_code_in_tables_that_has_a_slash() {
        let text = "`not/in/a/table`\n| where | what |\n| `a/b`, `c/d.rs` | see `e/f`, and `cargo xtask` |\n";
        assert_eq!(paths(text).collect::<Vec<_>>(), ["a/b", "c/d.rs", "e/f"]);
    }
}
