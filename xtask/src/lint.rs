//! Formatting and clippy.

use anyhow::Result;

use crate::cargo::Cargo;
use crate::toolchain;

pub(crate) fn run(cargo: &Cargo) -> Result<()> {
    toolchain::ensure_component(cargo, "rustfmt", "fmt")?;
    toolchain::ensure_component(cargo, "clippy", "clippy")?;
    cargo.run(&["fmt", "--all", "--check"])?;
    let fuzzer = ["--features", "projector-fuzz/fuzzer"];
    cargo.run(&[&["clippy", "--workspace", "--all-targets"], &fuzzer[..], &["--", "-D", "warnings"]].concat())
}
