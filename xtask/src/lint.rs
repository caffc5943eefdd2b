//! What has to hold for the sources, beside the tests: format, lints and documentation.

mod deny;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::cargo::{Cargo, succeed};
use crate::{docs, toolchain};

#[derive(Args)]
pub(crate) struct Options {
    /// Run these checks only.
    #[arg(value_name = "CHECK", value_enum)]
    checks: Vec<Check>,
}

/// In the order in which they run: the quick ones first.
#[derive(Clone, Copy, ValueEnum)]
enum Check {
    /// Links between the pages of documentation lead somewhere.
    Links,
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
        match check.run(cargo) {
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
    fn run(self, cargo: &Cargo) -> Result<Outcome> {
        match self {
            Check::Links => docs::check_links(cargo.root()).map(|()| Outcome::Holds),
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
                let mut doc = cargo.command(&["doc", "--workspace", "--no-deps"]);
                succeed(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
                Ok(Outcome::Holds)
            }
        }
    }
}
