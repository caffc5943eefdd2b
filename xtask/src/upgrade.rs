//! The program of the version before, beside today's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cargo::{Cargo, succeed};
use crate::guests;
use crate::test::{KAFKA_UPGRADE, Servers};
use crate::toolchain::{self, WASM_TARGET};

/// Where an upgrade comes from: the last release, once there is one. It moves with each release.
const BEFORE: &str = "cf6393368495e4b9c07b4c8d4aacc5d9f141899d";

/// What the tests deploy: packages, and their libraries.
const GUESTS: [(&str, &str); 3] = [
    ("order-search", "order_search"),
    ("sales-by-country", "sales_by_country"),
    ("gates-guest", "gates_guest"),
];

#[derive(Args)]
pub(crate) struct Options {
    /// The commit or tag of the version before.
    #[arg(long, default_value = BEFORE, value_name = "COMMIT")]
    from: String,
    /// In a clone that does not have the commit: say so, and end well.
    #[arg(long)]
    if_there: bool,
    /// Only tests with this in their names.
    filter: Option<String>,
}

pub(crate) fn run(cargo: &Cargo, options: &Options) -> Result<()> {
    let commit = match commit(cargo, &options.from) {
        Err(missing) if options.if_there => {
            eprintln!("\nSKIPPED the tests of upgrades: {missing:#}\n");
            return Ok(());
        }
        commit => commit?,
    };
    let before = program_of(cargo, &commit)?;
    // After it: both builds put their programs at one place.
    cargo.run(&["test", "--workspace", "--no-run", "--quiet"])?;
    guests::build(cargo, &cargo.program("projector"))?;
    let servers = Servers::all()?;
    let filter = options.filter.as_deref().unwrap_or(KAFKA_UPGRADE);
    // Not `--test it`: with another selection cargo would build the dependencies once more.
    let mut test = cargo.command(&["test", "--workspace", "--tests", "--quiet", "--", filter]);
    test.env("PROJECTOR_BEFORE", before)
        .env("PROJECTOR_GUESTS", guests::directory(cargo))
        .envs(servers.environment());
    succeed(&mut test)
}

/// The full name of a commit. A clone without it can prove nothing, and says so.
fn commit(cargo: &Cargo, named: &str) -> Result<String> {
    let commit =
        git(cargo, &["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{named}^{{commit}}")]);
    commit.with_context(|| {
        format!(
            "this clone does not have the commit {named}, whose program is to run beside today's: a shallow clone gets it with `git fetch --depth 1 origin {named}`, or all commits with `git fetch --unshallow`"
        )
    })
}

/// A directory with the program of a commit, and with its guests in `guests`. Built once.
fn program_of(cargo: &Cargo, commit: &str) -> Result<PathBuf> {
    let directory = cargo.target().join("before").join(commit);
    if directory.join("projector").exists() {
        return Ok(directory);
    }
    let started = Instant::now();
    // With the dependencies of today's build, as far as they are the same.
    let source = cargo.target().join("before").join("source");
    remove_worktree(cargo, &source);
    git(cargo, &["worktree", "add", "--force", "--detach", &source.to_string_lossy(), commit])?;
    let built = build(cargo, &source, &directory);
    remove_worktree(cargo, &source);
    built?;
    println!("the program of {commit} ({:.1} s)", started.elapsed().as_secs_f64());
    Ok(directory)
}

fn build(cargo: &Cargo, source: &Path, directory: &Path) -> Result<()> {
    let run = |arguments: &[&str]| {
        let mut command = cargo.command(arguments);
        succeed(command.arg("--target-dir").arg(cargo.target()).current_dir(source))
    };
    run(&["build", "--workspace", "--bin", "projector"])?;
    toolchain::ensure_wasm_target()?;
    let packages = GUESTS.iter().flat_map(|(package, _)| ["--package", package]);
    let build: Vec<&str> =
        ["build", "--profile", "guest", "--target", WASM_TARGET].into_iter().chain(packages).collect();
    run(&build)?;
    let components = directory.join("guests");
    fs::create_dir_all(&components).with_context(|| format!("cannot create {}", components.display()))?;
    let modules = cargo.target().join(WASM_TARGET).join("guest");
    for (package, library) in GUESTS {
        let module = modules.join(library).with_extension("wasm");
        let component = components.join(package).with_extension("wasm");
        succeed(
            Command::new(cargo.program("projector")).arg("component").arg(module).arg("-o").arg(component),
        )?;
    }
    // Last: it says that all of it is there.
    let program = directory.join("projector");
    fs::copy(cargo.program("projector"), &program)
        .map(drop)
        .with_context(|| format!("cannot write {}", program.display()))
}

/// What is left of one that was broken off, or is not needed any more.
fn remove_worktree(cargo: &Cargo, source: &Path) {
    let _ = git(cargo, &["worktree", "remove", "--force", &source.to_string_lossy()]);
    let _ = fs::remove_dir_all(source);
    let _ = git(cargo, &["worktree", "prune"]);
}

/// What git prints.
fn git(cargo: &Cargo, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("git").args(arguments).current_dir(cargo.root()).output().context("cannot run git")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
