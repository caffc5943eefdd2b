//! Builds the fuzzer, and runs it on one target after the other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use projector_test_servers::packages::{Need, ensure_installed};

use crate::cargo::{Cargo, succeed};
use crate::guests;
use crate::instrument::instrumented;

const TARGETS: [&str; 5] = ["events", "descriptors", "changes", "components", "config"];

#[derive(Args)]
pub(crate) struct Options {
    /// Only these, instead of all.
    #[arg(value_parser = TARGETS)]
    target: Vec<String>,

    /// How long each target is fuzzed.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// Try nothing but this input, of the one target that is named.
    #[arg(long)]
    input: Option<PathBuf>,
}

const CPP_COMPILER: Need = Need { what: "a C++ compiler", debian_package: "g++", is_met: has_cpp_compiler };

fn has_cpp_compiler() -> bool {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let version =
        Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

pub(crate) fn run(cargo: &Cargo, options: &Options) -> Result<()> {
    ensure!(
        options.input.is_none() || options.target.len() == 1,
        "name the target of the input, as in: cargo xtask fuzz events --input FILE"
    );
    ensure_installed(&[&CPP_COMPILER])?;
    // With the features of every other build, for the same reason as in `Cargo::build_programs`.
    let build = ["build", "--workspace", "--bin", "projector-fuzz", "--examples"];
    let mut build = cargo.command(&build);
    succeed(instrumented(build.args(["--features", "projector-fuzz/libfuzzer"]))?)?;

    let chosen: Vec<&str> = match options.target.is_empty() {
        true => TARGETS.to_vec(),
        false => options.target.iter().map(String::as_str).collect(),
    };
    // Plugins as they are shipped are tried as well.
    if chosen.contains(&"components") && options.input.is_none() && !guests::directory(cargo).is_dir() {
        cargo.build_programs(&["projector"], &[])?;
        guests::build(cargo, &cargo.program("projector"))?;
    }
    let mut found = Vec::new();
    for target in chosen {
        if !holds(cargo, target, options)? {
            found.push(target);
        }
    }
    ensure!(found.is_empty(), "what was promised does not hold: {}", found.join(", "));
    Ok(())
}

/// Fuzzes one target; what was found is shown.
fn holds(cargo: &Cargo, target: &str, options: &Options) -> Result<bool> {
    let directory = cargo.target().join("fuzz").join(target);
    fs::create_dir_all(&directory)?;
    let log = directory.join("log");
    let mut fuzzer = Command::new(cargo.program("projector-fuzz"));
    fuzzer
        .arg(target)
        .args(["--seconds", &options.seconds.to_string()])
        .arg("--corpus")
        .arg(directory.join("corpus"))
        .arg("--findings")
        .arg(directory.join("findings"))
        .stderr(File::create(&log)?)
        .env("RUST_BACKTRACE", "0")
        .current_dir(cargo.root());
    if target == "components" && options.input.is_none() {
        fuzzer.arg("--rarely").arg(guests::directory(cargo));
    }
    if let Some(input) = &options.input {
        ensure!(input.is_file(), "{} is no file", input.display());
        fuzzer.arg("--input").arg(fs::canonicalize(input)?);
    }
    if fuzzer.status().with_context(|| format!("cannot run {fuzzer:?}"))?.success() {
        if let Some(input) = &options.input {
            println!("{target}: holds for {}", input.display());
        }
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    show(target, &said, options.input.as_deref(), &log)?;
    Ok(false)
}

fn show(target: &str, said: &str, given: Option<&Path>, log: &Path) -> Result<()> {
    let written = said
        .lines()
        .find_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| Path::new(path));
    let Some(input) = written.or(given) else {
        bail!("{target}: the fuzzer broke off:\n{}\nall of it: {}", reason(said), log.display());
    };
    println!("\n{target}: does not hold for {}", input.display());
    println!("{}", reason(said));
    println!("all of it:  {}", log.display());
    println!("try again:  cargo xtask fuzz {target} --input {}", input.display());
    println!("once mended, keep it in fuzz/regressions/{target}, named for what it shows\n");
    Ok(())
}

/// The panic, or libFuzzer's own word for what it saw: a timeout, say.
fn reason(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    let begins = |line: &&&str| line.contains(" panicked at ") || line.contains("ERROR: libFuzzer");
    let from = lines.iter().position(|line| begins(&line)).unwrap_or_default();
    let until = |line: &&&str| !line.starts_with("==") && !line.starts_with("note: run with");
    let panic = lines[from..].iter().enumerate().take_while(|(at, line)| *at == 0 || until(line)).take(20);
    panic.map(|(_, line)| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
