//! Hours in which nothing may grow, or in which connections break again and again.

use anyhow::{Result, ensure};
use clap::Args;
use projector_test_servers::KafkaDistribution;

use crate::cargo::{Cargo, succeed};
use crate::guests;

/// The tests that they are, with all of their names.
const SOAK: &str = "kafka::soak::nothing_grows";
const STORMS: &str = "kafka::storms::a_host_lives_through_storms_of_broken_connections";

#[derive(Args)]
pub(crate) struct Options {
    /// How long. What is shorter than half an hour shows that it works, and does not tell what grows.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,

    /// The order of what is done: the same seed, the same order.
    #[arg(long, default_value_t = 20)]
    seed: u64,

    /// Instead of that: break all connections again and again, for as long as sessions last, and see that the host
    /// lives and reads on.
    #[arg(long)]
    storms: bool,
}

pub(crate) fn run(cargo: &Cargo, options: &Options) -> Result<()> {
    ensure!(
        options.minutes.is_finite() && options.minutes >= 0.0,
        "--minutes: a number of minutes, 0 or more"
    );
    cargo.run(&["test", "--workspace", "--no-run", "--quiet"])?;
    guests::build(cargo, &cargo.program("projector"))?;
    let distribution = KafkaDistribution::locate_or_install()?;
    let test = if options.storms { STORMS } else { SOAK };
    let arguments = ["test", "--workspace", "--test", "it", "--", "--exact", test, "--nocapture"];
    let mut soak = cargo.command(&arguments);
    soak.env("PROJECTOR_GUESTS", guests::directory(cargo))
        .env("PROJECTOR_KAFKA_DIST", distribution.libs().canonicalize()?)
        .env("PROJECTOR_SOAK_MINUTES", options.minutes.to_string())
        .env("PROJECTOR_TEST_SEED", options.seed.to_string());
    succeed(&mut soak)
}
