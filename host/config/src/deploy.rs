//! `[deploy]` and `[keep]`: how versions and generations replace each other, and how much of the past is
//! kept.

use std::num::NonZeroU32;

use serde::Deserialize;

use super::share::share;

/// How new versions are tried, and new generations are built and promoted.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Deploy {
    /// A new version is on trial until one of its lanes has committed this many batches. If it fails for an
    /// event for which the previous version does not fail, the host reverts to the previous version. 0
    /// means no trial.
    pub trial_batches: u64,
    /// The share of its time, from 0 to 1, that a lane spends on building a generation beside the live one.
    /// In the rest, the lane waits, so that the database and the brokers have capacity for others.
    #[serde(deserialize_with = "share")]
    pub rebuild_share: f64,
    /// When readers are switched to a generation that was built beside the live one.
    pub promote: Promote,
    /// Tables (`customer`) and columns (`customer.name`) in which a new generation may differ from the live
    /// one.
    pub expected_differences: Vec<String>,
}

impl Default for Deploy {
    fn default() -> Self {
        Self {
            trial_batches: 100,
            rebuild_share: 0.5,
            promote: Promote::Manual,
            expected_differences: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promote {
    /// By `projector promote`.
    Manual,
    /// Automatically, as soon as the generation is fresh: all events of the log are in it.
    WhenFresh,
    /// Automatically, as soon as the generation is fresh, if its rows equal those of the live one except
    /// for `expected-differences`.
    WhenEqual,
}

/// How much of a projection's past is kept. Hosts remove the rest from time to time.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Keep {
    /// How many earlier live generations are kept, and kept current. A rollback goes back to the last of
    /// them. A generation whose views readers may still use is always kept.
    pub warm_generations: NonZeroU32,
    /// How many versions' components are kept: those that were active last. Always kept are components that
    /// are active or about to be, that a rollback would activate, and that rows with lineage may name.
    pub versions: NonZeroU32,
    /// How many rows of `projector history` are kept. The last row of each version is always kept.
    pub deployments: NonZeroU32,
    /// How many rows of `projector operations` are kept. Rows of the last minutes are always kept.
    pub operations: NonZeroU32,
}

impl Default for Keep {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).expect("the default is not zero");
        Self {
            warm_generations: number(2),
            versions: number(20),
            deployments: number(1_000),
            operations: number(10_000),
        }
    }
}
