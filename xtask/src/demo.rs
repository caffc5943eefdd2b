//! Builds all that the demo needs, and hands over to `projector-demo`.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::cargo::{Cargo, succeed};
use crate::guests;

/// What the demo runs: packages, and their libraries.
const PLUGINS: [(&str, &str); 2] =
    [("order-search", "order_search"), ("sales-by-country", "sales_by_country")];

/// Crates that the development profile optimizes for the tests (Cargo.toml). To optimize them takes longer than all that the
/// demo does with them.
const NOT_OPTIMIZED: [&str; 6] = [
    "cranelift-codegen",
    "regalloc2",
    "wasmtime",
    "wasmtime-internal-cranelift",
    "projector-core",
    "projector-model",
];

#[derive(Args)]
pub(crate) struct Options {
    /// How many events to publish. The embedded broker keeps everything in memory.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=200_000))]
    events: u64,

    /// Where the history is made up from: the same seed, the same history.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(cargo: &Cargo, options: &Options) -> Result<()> {
    println!("building the host, the demo and two plugins: about 8 minutes on two cores the first time");
    // Without TLS: the broker is in the demo's own process.
    let mut flags = vec!["--no-default-features"];
    let levels = NOT_OPTIMIZED.map(|krate| format!("--config=profile.dev.package.{krate}.opt-level=0"));
    flags.extend(levels.iter().map(String::as_str));
    let mut build = cargo.programs(&["projector", "projector-demo"], &flags);
    build.env("MAKEFILES", cargo.root().join("xtask/src/librdkafka.mk"));
    guests::compile_beside(cargo, &PLUGINS, || succeed(&mut build))?;
    let projector = cargo.program("projector");
    guests::wrap(cargo, &projector, &PLUGINS)?;
    succeed(
        Command::new(cargo.program("projector-demo"))
            .arg("--projector")
            .arg(projector)
            .arg("--guests")
            .arg(guests::directory(cargo))
            .arg("--directory")
            .arg(cargo.target().join("demo"))
            .args(["--events", &options.events.to_string(), "--seed", &options.seed.to_string()])
            .current_dir(cargo.root()),
    )
}
