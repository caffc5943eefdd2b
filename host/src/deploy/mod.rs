//! From a component's file to the version that runs, and to the generation that readers see.
//!
//! `watch` finds files, `trust` decides which components may run, and `component_cache` compiles them. `rollout`
//! activates a version on the hosts. `backfill` reads the file of a backfill. `compare`, `reach`, `readers` and
//! `promote` decide whether another generation may be shown to readers, and show it.

pub mod backfill;
pub mod compare;
pub mod component_cache;
pub mod promote;
pub mod reach;
pub mod readers;
pub mod rollout;
pub mod trust;
pub mod watch;
