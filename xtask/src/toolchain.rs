//! What rustup has to have installed.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::cargo::{Cargo, succeed};

pub(crate) const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// The target that guests are built for.
pub(crate) fn ensure_wasm_target() -> Result<()> {
    let libraries =
        Command::new("rustc").args(["--print", "target-libdir", "--target", WASM_TARGET]).output();
    let installed = libraries.is_ok_and(|output| {
        output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir()
    });
    if installed {
        return Ok(());
    }
    rustup(&["target", "add", WASM_TARGET])
}

/// A component that is run as `cargo <subcommand>`.
pub(crate) fn ensure_component(cargo: &Cargo, component: &str, subcommand: &str) -> Result<()> {
    let mut version = cargo.command(&[subcommand, "--version"]);
    let installed = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if installed.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    rustup(&["component", "add", component])
}

fn rustup(arguments: &[&str]) -> Result<()> {
    let line = format!("rustup {}", arguments.join(" "));
    println!("{line}");
    succeed(Command::new("rustup").args(arguments)).with_context(|| format!("needed once: {line}"))
}
