//! Seeds are fixed, and printed with a failure; `PROJECTOR_TEST_SEED` tries another history.

use std::env;

/// `fixed`, or that which was asked for. Printed: libtest shows it when the test fails.
pub(crate) fn seed(fixed: u64) -> u64 {
    let seed = match env::var("PROJECTOR_TEST_SEED") {
        Ok(given) => given.parse().expect("PROJECTOR_TEST_SEED is a number"),
        Err(_) => fixed,
    };
    println!("seed {seed}");
    seed
}
