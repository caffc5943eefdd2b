//! Formatting and clippy.

use anyhow::Result;

use crate::cargo::Cargo;
use crate::toolchain;

pub(crate) fn run(cargo: &Cargo) -> Result<()> {
    toolchain::ensure_component(cargo, "rustfmt", "fmt")?;
    toolchain::ensure_component(cargo, "clippy", "clippy")?;
    cargo.run(&["fmt", "--all", "--check"])?;
    cargo.run(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
}
