//! Every habit of Projector's developers, as `cargo xtask <habit>`.

mod bench;
mod cargo;
mod demo;
mod docs;
mod fuzz;
mod guests;
mod instrument;
mod lint;
mod soak;
mod test;
mod toolchain;
mod upgrade;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cargo::Cargo;

/// Projector's development tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", subcommand_required = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// See it work: an embedded broker, two plugins, a SQLite read model, and a question to it.
    ///
    /// Builds the host and the plugins, publishes a made-up history of orders and customers, runs
    /// the host until its read models are fresh, and asks for all orders of customers in Germany
    /// that contain a yoga mat, of the last 30 days. Keeps target/demo/events.jsonl and
    /// target/demo/readmodel.db, so that the answer can be computed again by other means.
    Demo(demo::Options),

    /// Run all tests, on a real Kafka and a real Postgres.
    ///
    /// Both are set up, started on free ports, and stopped at the end. KAFKA_BROKERS and
    /// DATABASE_URL name servers to use instead. What is missing on the machine is installed when
    /// this runs as root on Debian, and otherwise named, with the command that installs it. Where no
    /// Kafka can be had, the tests that need one are named and skipped; with CI set, that is a
    /// failure.
    Test(test::Options),

    /// Measure events per second from Kafka to committed rows, against a hand-written program.
    ///
    /// On a real Kafka and a real Postgres, as in `test`; with optimized programs, which takes some
    /// minutes to build at first. Every run is checked against the events. Leaves its report in
    /// target/bench/report.md and report.json. Stop what else the machine does.
    Bench(bench::Options),

    /// Run a host for an hour under everything that comes and goes, and see that nothing grows.
    ///
    /// On a real Kafka and a real Postgres of its own: versions are swapped, generations rebuilt and retired,
    /// events fail and are retried or discarded, and the connections to brokers and database are cut. Every
    /// few seconds it shows the host's memory, threads, file descriptors and tasks, and the rows and bytes of
    /// the host's tables. At the end it compares the medians of three windows, and fails with what grew. It
    /// fails as well if an event was lost or doubled.
    Soak(soak::Options),

    /// Give the places where bytes come from outside bytes that are made up, and see whether they hold.
    ///
    /// events: Kafka records through a plugin's decoding, the ids of duplicates, and dead letters.
    /// descriptors: what a plugin says about itself. changes: what it answers. components: files in
    /// the plugin directory. config: projector.toml.
    ///
    /// Each is fuzzed by libFuzzer from real inputs on, guided by the code that an input reaches; what
    /// leads on is kept in target/fuzz for the next time. An input that breaks a promise is left in
    /// target/fuzz/TARGET/findings, shown with the command that tries it again, and the exit code is
    /// 1. Once mended it belongs into fuzz/regressions/TARGET, where `test` tries it from then on.
    ///
    /// It takes a C++ compiler, which is installed when this runs as root on Debian.
    Fuzz(fuzz::Options),

    /// Run hosts of the version before and of this one side by side, on one database.
    ///
    /// Builds the program and the guests of an earlier commit in target/before, once, in a work tree of its
    /// own and with the dependencies that are built already; then runs the tests of kafka::upgrade, on a real
    /// Kafka and a real Postgres as in `test`. A clone that does not have the commit, as a shallow one, is a
    /// failure.
    Upgrade(upgrade::Options),

    /// Check what has to hold for the sources, beside the tests.
    ///
    /// Runs every check and prints all violations, each as `file:line: what is wrong: what to do`. Fails at
    /// the end if a check failed. A check that the machine cannot run is skipped by name, with the command
    /// that installs what is missing.
    ///
    /// xtask/src/lint/allowed.txt lists the violations that are older than their check. The list only
    /// shrinks: an entry that allows nothing is a violation too. Do not add to it.
    Lint(lint::Options),

    /// Build the book in docs/ into target/book, after a check of the links of all Markdown files.
    ///
    /// Installs mdBook into target/tools if it is missing.
    Docs,

    /// Build the plugins, and the guests that the tests use, into components in target/guests.
    Guests,
}

fn main() -> ExitCode {
    if let Some(code) = instrument::in_place_of_rustc() {
        return code;
    }
    let arguments = Arguments::parse();
    let run = || -> anyhow::Result<()> {
        let cargo = Cargo::locate()?;
        match arguments.task {
            Task::Demo(options) => demo::run(&cargo, &options),
            Task::Test(options) => test::run(&cargo, &options),
            Task::Bench(options) => bench::run(&cargo, &options),
            Task::Upgrade(options) => upgrade::run(&cargo, &options),
            Task::Fuzz(options) => fuzz::run(&cargo, &options),
            Task::Soak(options) => soak::run(&cargo, &options),
            Task::Lint(options) => lint::run(&cargo, &options),
            Task::Docs => docs::run(&cargo),
            Task::Guests => {
                cargo.build_programs(&["projector"], &[])?;
                guests::build(&cargo, &cargo.program("projector"))
            }
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
