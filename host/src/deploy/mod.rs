//! From a file to the version that runs: what its tables need (`layout`), where it goes (here).

pub mod backfill;
pub mod compare;
pub mod component_cache;
pub mod promote;
pub mod reach;
pub mod readers;
pub mod rollout;
pub mod trust;
pub mod watch;
