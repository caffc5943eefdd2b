//! Guests: WebAssembly modules, wrapped into components by the host's own command.

#[cfg(test)]
mod bindings;

use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::cargo::{Cargo, succeed};
use crate::toolchain::{self, WASM_TARGET};

/// Where the components are.
pub(crate) fn directory(cargo: &Cargo) -> PathBuf {
    cargo.target().join("guests")
}

/// Builds all guests into `target/guests/<package>.wasm`. `projector` is a program of the host: it wraps the modules.
pub(crate) fn build(cargo: &Cargo, projector: &Path) -> Result<()> {
    let guests = cargo.guests();
    let started = Instant::now();
    compile(cargo, &guests, &[])?;
    wrap(cargo, projector, &guests)?;
    let names: Vec<&str> = guests.iter().map(|(package, _)| *package).collect();
    println!("guests: {} ({:.1} s)", names.join(", "), started.elapsed().as_secs_f64());
    Ok(())
}

/// Compiles guests while `build` builds what runs them: the last crates of a build leave a core idle.
pub(crate) fn compile_beside(
    cargo: &Cargo,
    guests: &[(&str, &str)],
    build: impl FnOnce() -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let modules = scope.spawn(|| compile(cargo, guests, &["--quiet"]));
        let built = build();
        built.and(modules.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Compiles guests, given as packages and their libraries, into modules. `options` are passed on to cargo.
fn compile(cargo: &Cargo, guests: &[(&str, &str)], options: &[&str]) -> Result<()> {
    toolchain::ensure_wasm_target()?;
    let packages = guests.iter().flat_map(|(package, _)| ["--package", package]);
    let build = ["build", "--profile", "guest", "--target", WASM_TARGET].into_iter().chain(packages);
    cargo.run(&build.chain(options.iter().copied()).collect::<Vec<_>>())
}

/// Wraps the modules of guests into the components `target/guests/<package>.wasm`.
pub(crate) fn wrap(cargo: &Cargo, projector: &Path, guests: &[(&str, &str)]) -> Result<()> {
    let modules = cargo.target().join(WASM_TARGET).join("guest");
    let components = directory(cargo);
    fs::create_dir_all(&components).with_context(|| format!("cannot create {}", components.display()))?;
    for (package, library) in guests {
        let module = modules.join(library.replace('-', "_")).with_extension("wasm");
        let component = components.join(package).with_extension("wasm");
        succeed(Command::new(projector).arg("component").arg(module).arg("-o").arg(&component))?;
    }
    Ok(())
}
