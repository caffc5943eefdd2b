//! From a file to the version that runs: what its tables need (`layout`), where it goes (here).

pub mod backfill;
pub mod compare;
pub mod component_cache;
pub mod layout;
pub mod promote;
pub mod reach;
pub mod readers;
pub mod rollout;
pub mod trust;
pub mod views;
pub mod watch;

use crate::store::deployments::{DeploymentAction, GenerationStatus, Role};
use layout::{Fit, Offered, Step};

/// Where a version goes, and what that takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// The projection's first generation, which readers see from the beginning.
    First,
    /// A generation that is there, after these additions to its tables.
    InPlace { generation: i64, steps: Vec<Step> },
    /// A new generation beside the live one, for these reasons; one that is being built is given up.
    Anew { reasons: Vec<String>, instead_of: Option<i64> },
}

impl Target {
    /// What the generation is to readers that it goes to.
    pub fn role(&self, standings: &[GenerationStatus]) -> Role {
        match self {
            Target::First => Role::Live,
            Target::Anew { .. } => Role::Building,
            Target::InPlace { generation, .. } => standings
                .iter()
                .find(|standing| standing.generation.id == *generation)
                .map_or(Role::Live, |standing| standing.role),
        }
    }
}

/// Where a version goes: to the generation that is being built, if it fits there; to the live one, if it
/// fits there; otherwise to a new one. `had`: whether a generation had it before, and so fits it.
pub fn target(
    action: DeploymentAction,
    standings: &[GenerationStatus],
    offered: Offered<'_>,
    had: impl Fn(&GenerationStatus) -> bool,
) -> Target {
    let of = |role| standings.iter().find(|standing| standing.role == role);
    let Some(live) = of(Role::Live) else { return Target::First };
    let building = of(Role::Building);
    let instead_of = building.map(|building| building.generation.id);
    let fit = |standing: &GenerationStatus| match standing.descriptor.clone().check() {
        Ok(active) => standing.layout.fit(offered, &active),
        Err(problems) => Fit::Anew(vec![format!("what is active is not sound: {problems}")]),
    };
    let in_place = |standing: &GenerationStatus| match fit(standing) {
        _ if had(standing) => Ok(Vec::new()),
        Fit::InPlace(steps) => Ok(steps),
        Fit::Anew(reasons) => Err(reasons),
    };
    let candidates: Vec<&GenerationStatus> = match action {
        DeploymentAction::Rebuild | DeploymentAction::Backfill => {
            return Target::Anew { reasons: vec!["an operator asked for it".to_owned()], instead_of };
        }
        DeploymentAction::Rollback => vec![live],
        _ => building.into_iter().chain([live]).collect(),
    };
    let mut reasons = Vec::new();
    for standing in candidates {
        match in_place(standing) {
            Ok(steps) => return Target::InPlace { generation: standing.generation.id, steps },
            // Those of the live one are what is told.
            Err(others) => reasons = others,
        }
    }
    Target::Anew { reasons, instead_of }
}
