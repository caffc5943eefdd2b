//! `[projections.NAME]`: the settings of one projection, and the defaults of all others.

use std::num::NonZeroUsize;

use projector_core::failure_policy::Failures;
use serde::Deserialize;

use super::batch::BatchSettings;
use super::deploy::{Deploy, Keep};
use super::limits::Limits;
use super::start::Start;
use super::text::Text;

/// The settings of one projection. A setting that is missing has its value from [`Defaults`]. A table that
/// is present, such as `[projections.NAME.limits]`, replaces the default table as a whole.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Projection {
    /// The name of a store in `[stores]`.
    pub store: Option<Text>,
    /// Logical topics that the projection may read. Default: all.
    pub topics: Option<Vec<Text>>,
    pub limits: Option<Limits>,
    pub batch: Option<BatchSettings>,
    pub failures: Option<Failures>,
    pub lanes: Option<NonZeroUsize>,
    pub deploy: Option<Deploy>,
    pub keep: Option<Keep>,
    /// Where a new generation starts to read. Default: at the beginning of its topics. The setting does not
    /// affect a generation that has started.
    pub start: Option<Start>,
}

/// The settings of projections that have no settings of their own: the tables `[limits]`, `[batch]`,
/// `[failures]`, `[deploy]` and `[keep]`, and the key `lanes`.
#[derive(Debug, Clone)]
pub struct Defaults {
    pub limits: Limits,
    pub batch: BatchSettings,
    /// What happens to events that fail.
    pub failures: Failures,
    /// How many lanes a projection has. Only projections whose batches are independent may have several.
    pub lanes: NonZeroUsize,
    /// How new versions are tried, and new generations are built and promoted.
    pub deploy: Deploy,
    /// How much of each projection's past is kept.
    pub keep: Keep,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            batch: BatchSettings::default(),
            failures: Failures::default(),
            lanes: NonZeroUsize::MIN,
            deploy: Deploy::default(),
            keep: Keep::default(),
        }
    }
}
