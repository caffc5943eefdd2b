//! The workspace, as cargo sees it.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub(crate) struct Cargo {
    program: PathBuf,
    root: PathBuf,
    target: PathBuf,
    metadata: Value,
}

impl Cargo {
    pub(crate) fn locate() -> Result<Cargo> {
        let program = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no workspace")?;
        let output = Command::new(&program)
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(root)
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let target =
            metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
        Ok(Cargo { program, root: root.to_owned(), target: PathBuf::from(target), metadata })
    }

    /// The workspace's directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// A program of this workspace, in the profile that development, tests and demo share.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// The names of the packages that are WebAssembly guests, and of their libraries. What tells
    /// them: they are built as a `cdylib`.
    pub(crate) fn guests(&self) -> Vec<(&str, &str)> {
        let is_cdylib = |target: &&Value| {
            target["crate_types"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "cdylib"))
        };
        self.packages()
            .filter_map(|package| {
                let library = package["targets"].as_array()?.iter().find(is_cdylib)?;
                Some((package["name"].as_str()?, library["name"].as_str()?))
            })
            .collect()
    }

    /// The programs of packages without a library. The pages of others would lie where those of their library do.
    pub(crate) fn lone_programs(&self) -> impl Iterator<Item = &str> {
        let is = |target: &Value, kind: &str| {
            target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|one| one == kind))
        };
        let targets = self.packages().filter_map(|package| package["targets"].as_array());
        let without_library = targets.filter(move |targets| !targets.iter().any(|target| is(target, "lib")));
        without_library
            .flatten()
            .filter(move |target| is(target, "bin"))
            .filter_map(|target| target["name"].as_str())
    }

    /// The packages of the workspace, as `cargo metadata` describes them.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &Value> {
        self.metadata["packages"].as_array().into_iter().flatten()
    }

    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.root);
        // `cargo run` describes this program's package in its environment. Some build scripts (ring's)
        // run again when that changes, and all that depends on them would be built again.
        let of_a_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        let names = env::vars_os().map(|(name, _)| name);
        names.filter(|name| name.to_str().is_some_and(of_a_package)).for_each(|name| {
            command.env_remove(name);
        });
        command
    }

    /// Builds the programs of some packages. `options` are passed on to cargo.
    pub(crate) fn build_programs(&self, packages: &[&str], options: &[&str]) -> Result<()> {
        succeed(&mut self.programs(packages, options))
    }

    /// The command that builds the programs of some packages. `options` are passed on to cargo.
    ///
    /// There are no examples. With `--examples` cargo gives the dependencies the features that tests need too. Without it,
    /// it would build wasmtime, sqlx and what depends on them once for programs, and once for tests.
    pub(crate) fn programs(&self, packages: &[&str], options: &[&str]) -> Command {
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        let build = ["build", "--bins", "--examples"].into_iter().chain(packages);
        self.command(&build.chain(options.iter().copied()).collect::<Vec<_>>())
    }

    /// Runs cargo in the workspace's directory, with its output passed on.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<()> {
        succeed(&mut self.command(arguments))
    }
}

/// Runs `command` with its output passed on; that it fails is an error.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    let status = command.status().with_context(|| format!("cannot run {line}"))?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

/// As one would type it, with the program's name alone.
fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_else(|| command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
