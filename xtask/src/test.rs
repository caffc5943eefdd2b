//! All tests, with the servers that they need.

use std::ffi::OsString;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::time::Instant;
use std::{env, fs, thread};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use projector_test_servers::{Kafka, KafkaDistribution, Postgres};

use crate::cargo::{Cargo, succeed};
use crate::guests;

/// Tests that need the program of the version before: `cargo xtask upgrade` runs them.
pub(crate) const KAFKA_UPGRADE: &str = "kafka::upgrade::";

/// Tests that need a Kafka live in a module of this name, at the root of an integration test.
const KAFKA_TESTS: &str = "kafka::";

#[derive(Args)]
pub(crate) struct Options {
    /// Passed on to `cargo test`, as in `cargo xtask test -- --test it exactly_once`.
    #[arg(last = true)]
    cargo_test: Vec<String>,
}

pub(crate) fn run(cargo: &Cargo, options: &Options) -> Result<()> {
    // Beside the build: what it needs is downloaded the first time.
    let kafka = thread::spawn(kafka_at_hand);
    let guests = cargo.guests();
    println!("building all programs, tests and guests: about 14 minutes on two cores the first time");
    guests::compile_beside(cargo, &guests, || {
        // One build for everything native. It makes the host too, which wraps the guests: cargo builds
        // the programs of a package that has integration tests.
        cargo.run(&["test", "--workspace", "--no-run"])
    })?;
    guests::wrap(cargo, &cargo.program("projector"), &guests)?;

    let mut servers = Servers::default();
    servers.provide_postgres()?;
    let mut skipped = match kafka.join().unwrap_or_else(|panic| resume_unwind(panic)) {
        Ok(at_hand) => {
            servers.provide_kafka(at_hand)?;
            Vec::new()
        }
        Err(reason) => give_up_kafka_tests(cargo, &reason)?,
    };

    println!("left out: {KAFKA_UPGRADE}, which `cargo xtask upgrade` runs");
    skipped.push(KAFKA_UPGRADE.to_owned());

    let mut test = cargo.command(&cargo_test_arguments(&options.cargo_test, &skipped));
    test.env("PROJECTOR_GUESTS", guests::directory(cargo)).envs(servers.environment.iter().cloned());
    // Hosts of the tests compile each component once.
    let artifacts = empty_directory(cargo.target().join("artifacts"))?;
    test.env("PROJECTOR_ARTIFACTS", artifacts);
    if env::var_os("RUST_TEST_THREADS").is_none() {
        // Most tests wait for servers most of the time: one more than there are cores.
        test.env("RUST_TEST_THREADS", (thread::available_parallelism()?.get() + 1).to_string());
    }
    succeed(&mut test)
}

fn empty_directory(directory: PathBuf) -> Result<PathBuf> {
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

enum KafkaAtHand {
    Running { brokers: String },
    Installed(KafkaDistribution),
}

/// An error only if this machine can have no Kafka: no Java, or no way to fetch the broker.
fn kafka_at_hand() -> Result<KafkaAtHand> {
    match env::var("KAFKA_BROKERS") {
        Ok(brokers) => Ok(KafkaAtHand::Running { brokers }),
        Err(_) => KafkaDistribution::locate_or_install().map(KafkaAtHand::Installed),
    }
}

/// Servers that all tests share. Those started here end when this is dropped, at the latest with
/// this process.
#[derive(Default)]
pub(crate) struct Servers {
    kafka: Option<Kafka>,
    postgres: Option<Postgres>,
    /// Tells the tests where the servers are.
    environment: Vec<(&'static str, OsString)>,
}

impl Servers {
    /// Both; an error if one cannot be had.
    pub(crate) fn all() -> Result<Servers> {
        let mut servers = Servers::default();
        servers.provide_postgres()?;
        servers.provide_kafka(kafka_at_hand()?)?;
        Ok(servers)
    }

    /// Tells the tests where they are.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, OsString)> {
        self.environment.iter().cloned()
    }

    fn provide_kafka(&mut self, at_hand: KafkaAtHand) -> Result<()> {
        let distribution = match at_hand {
            KafkaAtHand::Running { brokers } => {
                println!("Kafka: {brokers}, from KAFKA_BROKERS");
                return Ok(());
            }
            KafkaAtHand::Installed(distribution) => distribution,
        };
        let started = Instant::now();
        let libs = distribution.libs().canonicalize()?;
        let kafka = Kafka::start()?;
        println!("Kafka: {} ({:.1} s)", kafka.bootstrap(), started.elapsed().as_secs_f64());
        self.environment.push(("PROJECTOR_KAFKA_DIST", libs.into()));
        self.environment.push(("KAFKA_BROKERS", kafka.bootstrap().into()));
        self.kafka = Some(kafka);
        Ok(())
    }

    fn provide_postgres(&mut self) -> Result<()> {
        if env::var_os("DATABASE_URL").is_some() {
            println!("Postgres: the one at DATABASE_URL");
            return Ok(());
        }
        let started = Instant::now();
        let postgres = Postgres::start_unflushed()?;
        println!("Postgres: {} ({:.1} s)", postgres.url(), started.elapsed().as_secs_f64());
        self.environment.push(("DATABASE_URL", postgres.url().into()));
        self.postgres = Some(postgres);
        Ok(())
    }
}

/// Says which tests will not run, and why. Where nobody may be watching, that is a failure.
fn give_up_kafka_tests(cargo: &Cargo, reason: &anyhow::Error) -> Result<Vec<String>> {
    let tests = kafka_tests(cargo)?;
    eprintln!("\nNO KAFKA: {reason:#}\n");
    for test in &tests {
        eprintln!("SKIPPED {test}");
    }
    eprintln!("SKIPPED {} tests, for want of a Kafka\n", tests.len());
    if env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false") {
        bail!("{} tests need a Kafka, and CI is set", tests.len());
    }
    Ok(tests)
}

/// The full names of all tests that need a Kafka.
fn kafka_tests(cargo: &Cargo) -> Result<Vec<String>> {
    let arguments = ["test", "--workspace", "--tests", "--quiet", "--", "--list", "--format", "terse"];
    let output = cargo.command(&arguments).output().context("cannot list the tests")?;
    ensure!(output.status.success(), "cannot list the tests: {}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.filter(|name| name.starts_with(KAFKA_TESTS)).map(str::to_owned).collect())
}

/// `cargo test` of the whole workspace, unless `given` names packages.
fn cargo_test_arguments(given: &[String], skipped: &[String]) -> Vec<String> {
    let mut arguments = vec!["test".to_owned(), "--no-fail-fast".to_owned()];
    if !given.iter().any(|argument| argument == "-p" || argument.starts_with("--package")) {
        arguments.push("--workspace".to_owned());
    }
    arguments.extend(given.iter().cloned());
    if !skipped.is_empty() && !given.iter().any(|argument| argument == "--") {
        arguments.push("--".to_owned());
    }
    arguments.extend(skipped.iter().flat_map(|name| ["--skip".to_owned(), name.clone()]));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn skipped_tests_are_told_to_the_test_programs() {
        let arguments = |given, skipped| cargo_test_arguments(&words(given), &words(skipped)).join(" ");
        assert_eq!(arguments("", ""), "test --no-fail-fast --workspace");
        assert_eq!(arguments("-p x once", "a b"), "test --no-fail-fast -p x once -- --skip a --skip b");
        assert_eq!(
            arguments("-- --nocapture", "a"),
            "test --no-fail-fast --workspace -- --nocapture --skip a"
        );
    }
}
