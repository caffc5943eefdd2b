//! What has to hold for the sources, beside the tests: format, lints, sizes, and the direction of
//! dependencies.

mod crates;
mod deny;
mod modules;
mod sizes;
mod sources;
mod violation;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::sources::Crate;
use self::violation::{Violation, without_allowed};
use crate::cargo::{Cargo, succeed};
use crate::{docs, toolchain};

/// The violations that are still allowed.
const ALLOWED: &str = "xtask/src/lint/allowed.txt";

#[derive(Args)]
pub(crate) struct Options {
    /// The checks to run. All of them, if none is named.
    #[arg(value_name = "CHECK", value_enum)]
    checks: Vec<Check>,
}

/// In the order in which they run: the quick ones first.
#[derive(Clone, Copy, ValueEnum)]
enum Check {
    /// Packages depend on each other in one direction: the table is in xtask/src/lint/crates.rs.
    Crates,
    /// Among the modules of a package, no two use each other, directly or through others.
    Modules,
    /// No file over 450 lines, no struct over 12 fields, no function over 5 parameters.
    Sizes,
    /// Links of Markdown files lead somewhere; reference and sample in the book agree with the sources.
    Docs,
    /// rustfmt leaves every file as it is.
    Format,
    /// Licences, known vulnerabilities and duplicate versions of dependencies (cargo-deny, deny.toml).
    Deny,
    /// clippy has no warning.
    Clippy,
    /// rustdoc has no warning.
    Rustdoc,
}

/// How a check ends that finds no violation.
pub(crate) enum Outcome {
    Holds,
    /// What did not run, and the command that makes it run.
    Skipped(String),
}

pub(crate) fn run(cargo: &Cargo, options: &Options) -> Result<()> {
    let all = Check::value_variants();
    let checks = if options.checks.is_empty() { all } else { &options.checks };
    let mut failed = Vec::new();
    for check in checks {
        let name = check.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        println!("lint {name} …");
        match check.run(cargo, &name) {
            Ok(Outcome::Holds) => println!("lint {name}: ok"),
            Ok(Outcome::Skipped(what)) => println!("lint {name}: skipped {what}"),
            Err(error) => {
                println!("lint {name}: FAILED: {error:#}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("lint: {}", failed.join(", ")) }
}

impl Check {
    fn run(self, cargo: &Cargo, name: &str) -> Result<Outcome> {
        match self {
            Check::Crates => report(cargo, name, crates::check(cargo)?),
            Check::Modules => report(cargo, name, each_crate(cargo, modules::check)?),
            Check::Sizes => report(cargo, name, each_crate(cargo, sizes::check)?),
            Check::Docs => docs::check(cargo.root()).map(|()| Outcome::Holds),
            Check::Format => {
                toolchain::ensure_component(cargo, "rustfmt", "fmt")?;
                cargo.run(&["fmt", "--all", "--check"])?;
                Ok(Outcome::Holds)
            }
            Check::Deny => deny::check(cargo),
            Check::Clippy => {
                toolchain::ensure_component(cargo, "clippy", "clippy")?;
                let all = ["clippy", "--workspace", "--all-targets", "--features", "projector-fuzz/fuzzer"];
                cargo.run(&[&all[..], &["--", "-D", "warnings"]].concat())?;
                Ok(Outcome::Holds)
            }
            Check::Rustdoc => {
                let mut doc = cargo.command(&["doc", "--workspace", "--no-deps", "--lib"]);
                doc.args(cargo.lone_programs().flat_map(|name| ["--bin", name]));
                // As in `Cargo::build_programs`: with the features that clippy checked the dependencies with.
                doc.arg("--examples");
                succeed(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
                Ok(Outcome::Holds)
            }
        }
    }
}

/// What `check` finds in the libraries and programs of the workspace.
fn each_crate(cargo: &Cargo, check: impl Fn(&Crate) -> Vec<Violation>) -> Result<Vec<Violation>> {
    Ok(sources::read(cargo)?.iter().flat_map(check).collect())
}

/// Prints the violations that are not allowed.
fn report(cargo: &Cargo, check: &str, found: Vec<Violation>) -> Result<Outcome> {
    let list = fs::read_to_string(cargo.root().join(ALLOWED)).context(ALLOWED)?;
    let left = without_allowed(check, found, Path::new(ALLOWED), &list);
    left.iter().for_each(|violation| println!("{violation}"));
    match left.len() {
        0 => Ok(Outcome::Holds),
        1 => bail!("one violation"),
        many => bail!("{many} violations"),
    }
}
