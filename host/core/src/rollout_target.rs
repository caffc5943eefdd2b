//! Where a version goes: to a generation that exists, or to a new one. Pure.

use crate::deployment::DeploymentAction;
use crate::generation::{GenerationStatus, Role};
use crate::layout::{Fit, Offered, Step};

/// Where a version goes, and what that takes.
#[derive(Debug, Clone, PartialEq)]
pub enum RolloutTarget {
    /// The projection's first generation, which readers see from the beginning.
    First,
    /// A generation that is there, after these additions to its tables.
    InPlace { generation: i64, steps: Vec<Step> },
    /// A new generation beside the live one, for these reasons; one that is being built is given up.
    Anew { reasons: Vec<String>, instead_of: Option<i64> },
}

impl RolloutTarget {
    /// What the generation is to readers that it goes to.
    pub fn role(&self, generations: &[GenerationStatus]) -> Role {
        match self {
            RolloutTarget::First => Role::Live,
            RolloutTarget::Anew { .. } => Role::Building,
            RolloutTarget::InPlace { generation, .. } => generations
                .iter()
                .find(|status| status.generation.id == *generation)
                .map_or(Role::Live, |status| status.role),
        }
    }
}

/// Where a version goes: to the generation that is being built, if it fits there; to the live one, if it
/// fits there; otherwise to a new one. `had`: whether a generation had it before, and so fits it.
pub fn rollout_target(
    action: DeploymentAction,
    generations: &[GenerationStatus],
    offered: Offered<'_>,
    had: impl Fn(&GenerationStatus) -> bool,
) -> RolloutTarget {
    let of = |role| generations.iter().find(|status| status.role == role);
    let Some(live) = of(Role::Live) else { return RolloutTarget::First };
    let building = of(Role::Building);
    let instead_of = building.map(|building| building.generation.id);
    let fit = |status: &GenerationStatus| match status.descriptor.clone().check() {
        Ok(active) => status.layout.fit(offered, &active),
        Err(problems) => Fit::Anew(vec![format!("what is active is not sound: {problems}")]),
    };
    let in_place = |status: &GenerationStatus| match fit(status) {
        _ if had(status) => Ok(Vec::new()),
        Fit::InPlace(steps) => Ok(steps),
        Fit::Anew(reasons) => Err(reasons),
    };
    let candidates: Vec<&GenerationStatus> = match action {
        DeploymentAction::Rebuild | DeploymentAction::Backfill => {
            return RolloutTarget::Anew { reasons: vec!["an operator asked for it".to_owned()], instead_of };
        }
        DeploymentAction::Rollback => vec![live],
        _ => building.into_iter().chain([live]).collect(),
    };
    let mut reasons = Vec::new();
    for status in candidates {
        match in_place(status) {
            Ok(steps) => return RolloutTarget::InPlace { generation: status.generation.id, steps },
            // Those of the live one are what is told.
            Err(others) => reasons = others,
        }
    }
    RolloutTarget::Anew { reasons, instead_of }
}
