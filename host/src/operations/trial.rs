//! The trial of a version that has replaced another one, found in the history of its projection.
//!
//! During its first batches a version is on trial: if it fails for an event for which the version before does not
//! fail, hosts activate the version before again. So a deployment has succeeded only when the trial is passed, not
//! when the version is active.

use projector_store::deployments::DeploymentRecord;
use serde::Serialize;

/// The state of a version's trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trial {
    /// No trial: the version replaced no other one, or the configuration has no trials.
    None,
    /// The first batches are not all committed yet.
    Running,
    Passed,
    /// Hosts activated the version before again, for this reason.
    #[serde(untagged)]
    Reverted {
        reverted: String,
    },
    /// Another version was activated before the trial was over, by this action.
    #[serde(untagged)]
    Superseded {
        superseded_by: String,
    },
}

/// A version that hosts have replaced by the version before, because it failed its trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reverted {
    pub version: Option<String>,
    pub digest: String,
    pub reason: String,
    /// Microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub at: i64,
}

/// Whether an entry of the history has activated a version in a generation.
fn decides(entry: &DeploymentRecord, generation: Option<i32>) -> bool {
    entry.decision.state == "done" && entry.generation == generation && entry.digest.is_some()
}

/// The trial of the deployment with this number. `history`: newest first.
pub fn of(history: &[DeploymentRecord], deployment: i64, trial_batches: u64) -> Trial {
    let Some(own) = history.iter().find(|entry| entry.id == deployment) else { return Trial::None };
    // The next activation in the same generation. The history is newest first, so it is the last match.
    let next = history.iter().rfind(|entry| entry.id > own.id && decides(entry, own.generation));
    match next {
        Some(next) if next.action == "revert" && next.replaced == own.digest => {
            return Trial::Reverted { reverted: next.request.reason.clone().unwrap_or_default() };
        }
        _ if own.decision.trial_passed_at.is_some() => return Trial::Passed,
        _ if own.action != "deploy" || own.replaced.is_none() || trial_batches == 0 => return Trial::None,
        Some(next) if next.action != "promote" => {
            return Trial::Superseded { superseded_by: next.action.clone() };
        }
        _ => {}
    }
    Trial::Running
}

/// Whether the active version of a generation is on trial.
pub fn is_running(history: &[DeploymentRecord], generation: i32, trial_batches: u64) -> bool {
    last(history, generation).is_some_and(|last| of(history, last.id, trial_batches) == Trial::Running)
}

/// The version that hosts reverted, if no other version was activated since.
pub fn reverted(history: &[DeploymentRecord], generation: i32) -> Option<Reverted> {
    let last = last(history, generation).filter(|last| last.action == "revert")?;
    let digest = last.replaced.clone()?;
    let version = history
        .iter()
        .find(|entry| entry.digest.as_ref() == Some(&digest))
        .and_then(|entry| entry.version.clone());
    let (reason, at) = (
        last.request.reason.clone().unwrap_or_default(),
        last.decision.decided_at.unwrap_or(last.request.asked_at),
    );
    Some(Reverted { version, digest, reason, at })
}

fn last(history: &[DeploymentRecord], generation: i32) -> Option<&DeploymentRecord> {
    history.iter().find(|entry| decides(entry, Some(generation)))
}

#[cfg(test)]
mod tests {
    use projector_store::deployments::{Decision, DeploymentRequest};

    use super::*;

    fn entry(id: i64, action: &str, digest: &str, replaced: Option<&str>) -> DeploymentRecord {
        DeploymentRecord {
            id,
            action: action.into(),
            version: Some(format!("version of {digest}")),
            digest: Some(digest.into()),
            generation: Some(1),
            replaced: replaced.map(str::to_owned),
            request: DeploymentRequest {
                origin: "command".into(),
                asked_by: "a test".into(),
                reason: (action == "revert").then(|| "it fails".into()),
                asked_at: id,
            },
            decision: Decision {
                state: "done".into(),
                result: None,
                decided_at: Some(id),
                trial_passed_at: None,
            },
            start: None,
        }
    }

    #[test]
    fn a_trial_runs_until_it_is_passed_or_another_version_is_activated() {
        let first = entry(1, "deploy", "a", None);
        let second = entry(2, "deploy", "b", Some("a"));
        let running = [second.clone(), first.clone()];
        assert_eq!(
            (of(&running, 1, 5), of(&running, 2, 5), of(&running, 2, 0)),
            (Trial::None, Trial::Running, Trial::None)
        );
        assert!(is_running(&running, 1, 5) && !is_running(&running, 2, 5));
        let mut passed = second.clone();
        passed.decision.trial_passed_at = Some(3);
        assert_eq!(of(&[passed, first.clone()], 2, 5), Trial::Passed);
        let reverted_to_a = [entry(3, "revert", "a", Some("b")), second.clone(), first.clone()];
        assert_eq!(of(&reverted_to_a, 2, 5), Trial::Reverted { reverted: "it fails".into() });
        let found = reverted(&reverted_to_a, 1).unwrap();
        assert_eq!((found.version.as_deref(), &*found.digest), (Some("version of b"), "b"));
        let [revert, ..] = &reverted_to_a;
        let later = [entry(4, "deploy", "c", Some("a")), revert.clone(), second.clone(), first.clone()];
        assert_eq!(
            (reverted(&later, 1), of(&later, 2, 5)),
            (None, Trial::Reverted { reverted: "it fails".into() })
        );
        let rolled_back = [entry(3, "rollback", "a", Some("b")), second, first];
        assert_eq!(of(&rolled_back, 2, 5), Trial::Superseded { superseded_by: "rollback".into() });
        // A deployment that is still open changes nothing.
        let mut open = entry(3, "deploy", "c", None);
        open.decision.state = "open".into();
        assert_eq!(of(&[open, running[0].clone(), running[1].clone()], 2, 5), Trial::Running);
    }
}
