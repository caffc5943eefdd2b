//! Licences, known vulnerabilities and duplicate versions of the dependencies, by cargo-deny.

use std::process::{Command, Stdio};

use anyhow::Result;

use super::Outcome;
use crate::cargo::Cargo;

/// Checks what deny.toml demands. Known vulnerabilities are in a database that cargo-deny downloads; where
/// it cannot be reached, the other checks run.
pub(crate) fn check(cargo: &Cargo) -> Result<Outcome> {
    if !succeeds(cargo.command(&["deny", "--version"])) {
        let command = "cargo install --locked cargo-deny";
        return Ok(Outcome::Skipped(format!(
            "all: cargo-deny is not installed; install it with `{command}`"
        )));
    }
    cargo.run(&["deny", "check", "licenses", "bans", "sources"])?;
    if !succeeds(cargo.command(&["deny", "fetch", "db"])) {
        let command = "cargo deny check advisories";
        return Ok(Outcome::Skipped(format!(
            "advisories: the database cannot be reached; run `{command}` where it can"
        )));
    }
    cargo.run(&["deny", "check", "advisories"])?;
    Ok(Outcome::Holds)
}

fn succeeds(mut command: Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
