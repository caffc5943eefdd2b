//! Builds the contenders optimized, and hands over to `projector-bench`.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::cargo::{Cargo, succeed};
use crate::guests;

#[derive(Args)]
pub(crate) struct Options {
    /// Fewer events and rounds: minutes, for a first impression.
    #[arg(long)]
    quick: bool,

    /// Measure only this workload; may be given several times.
    #[arg(long, value_parser = ["catch-up", "zipf-updates", "mix-5", "mix-500"])]
    workload: Vec<String>,

    /// Measure only this contender; may be given several times.
    #[arg(long, value_parser = ["order-search", "plain", "besieged", "sales-by-country", "native"])]
    contender: Vec<String>,

    /// Where the events are made up from: the same seed, the same events.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(cargo: &Cargo, options: &Options) -> Result<()> {
    println!("building optimized programs: about 15 minutes on two cores the first time");
    cargo.build_programs(&["projector", "projector-bench"], &["--release"])?;
    let programs = cargo.target().join("release");
    guests::build(cargo, &programs.join("projector"))?;

    let mut bench = Command::new(programs.join("projector-bench"));
    bench
        .arg("--projector")
        .arg(programs.join("projector"))
        .arg("--native")
        .arg(programs.join("projector-bench-native"))
        .arg("--guests")
        .arg(guests::directory(cargo))
        .arg("--directory")
        .arg(cargo.target().join("bench"))
        .args(["--seed", &options.seed.to_string()])
        .args(options.workload.iter().flat_map(|name| ["--workload", name]))
        .args(options.contender.iter().flat_map(|name| ["--contender", name]))
        .current_dir(cargo.root());
    if options.quick {
        bench.arg("--quick");
    }
    succeed(&mut bench)
}
