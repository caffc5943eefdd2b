//! What holds for any bytes that come from outside: one property for each way in.
//!
//! A property is a function from bytes, which panics where it does not hold. The fuzzer (`main`, built
//! by `cargo xtask fuzz`) calls it with bytes that it makes up; the test `regressions` with the seeds,
//! and with the bytes that showed a bug once.

mod changes;
mod components;
mod config;
mod descriptors;
mod events;

use std::path::Path;
use std::sync::LazyLock;

use projector_model::{Contract, Descriptor};

/// A way in.
pub struct Target {
    /// As it is called on the command line.
    pub name: &'static str,
    /// Returns whether the bytes were taken, rather than refused.
    ///
    /// # Panics
    ///
    /// If the property does not hold for them.
    pub check: fn(&[u8]) -> bool,
    /// Real inputs, small ones. All of them are taken.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The fuzzer makes up nothing longer.
    pub most_bytes: usize,
    pub shape: Shape,
}

/// What has to be kept when an input is changed, or it would get no further than a parser that is not
/// ours.
#[derive(Clone, Copy)]
pub enum Shape {
    /// Nothing.
    Free,
    /// Lengths stand in it.
    Measured,
    /// JSON, from there on.
    Json { begins: fn(&[u8]) -> usize },
}

pub const TARGETS: [Target; 5] =
    [events::TARGET, descriptors::TARGET, changes::TARGET, components::TARGET, config::TARGET];

/// Where inputs are kept that showed a bug once, in a directory for each target.
pub fn regressions() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/regressions"))
}

/// A projection of every kind of statement, operation and column.
const EVERYTHING: &str = include_str!("everything.json");

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| checked(EVERYTHING));

fn checked(descriptor: &str) -> Contract {
    Descriptor::from_json(descriptor)
        .and_then(Descriptor::check)
        .unwrap_or_else(|problems| panic!("{problems}"))
}
