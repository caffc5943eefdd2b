//! Guests: WebAssembly modules, wrapped into components by the host's own command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cargo::{Cargo, succeed};
use crate::toolchain::{self, WASM_TARGET};

/// Where the components are.
pub(crate) fn directory(cargo: &Cargo) -> PathBuf {
    cargo.target().join("guests")
}

/// Builds all guests of the workspace.
pub(crate) fn build_all(cargo: &Cargo, projector: &Path) -> Result<()> {
    let guests = cargo.guests();
    ensure!(!guests.is_empty(), "no package of the workspace is built as a cdylib");
    build(cargo, projector, &guests)
}

/// Builds guests into `target/guests/<package>.wasm`. `projector` is a program of the host: it wraps the modules.
pub(crate) fn build(cargo: &Cargo, projector: &Path, guests: &[(&str, &str)]) -> Result<()> {
    toolchain::ensure_wasm_target()?;
    let started = Instant::now();
    let packages = guests.iter().flat_map(|(package, _)| ["--package", package]);
    let build: Vec<&str> =
        ["build", "--profile", "guest", "--target", WASM_TARGET].into_iter().chain(packages).collect();
    cargo.run(&build)?;

    let modules = cargo.target().join(WASM_TARGET).join("guest");
    let components = directory(cargo);
    fs::create_dir_all(&components).with_context(|| format!("cannot create {}", components.display()))?;
    for (package, library) in guests {
        let module = modules.join(library.replace('-', "_")).with_extension("wasm");
        let component = components.join(package).with_extension("wasm");
        succeed(Command::new(projector).arg("component").arg(module).arg("-o").arg(&component))?;
    }
    let names: Vec<&str> = guests.iter().map(|(package, _)| *package).collect();
    println!("guests: {} ({:.1} s)", names.join(", "), started.elapsed().as_secs_f64());
    Ok(())
}
