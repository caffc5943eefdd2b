//! A deployment's way from a wish to the version that runs: every host that is there says whether it can
//! run it, and then any of them carries it out. What each step needs is in the store, so that whoever dies
//! leaves nothing undone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use projector_core::failure::{FailureKind, Response};
use projector_core::generation::Role;
use projector_core::layout::Offered;
use projector_store::deployments::OpenDeployment;
use projector_store::{Store, StoreError};
use uuid::Uuid;

use super::component_cache::{ComponentCache, VersionError};

/// So often the database may refuse to carry a deployment out, while it answers otherwise.
const MOST_ATTEMPTS: u32 = 10;
/// How long a deployment rests that could not be brought on: twice as long after each failure, up to the last.
const REST: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// How often this host tried in vain to carry out the open deployments of a store.
#[derive(Default)]
pub struct Attempts(Mutex<HashMap<i64, u32>>);

impl Attempts {
    /// How long to wait before the next attempt.
    pub fn rest(&self, deployment: i64) -> Duration {
        let failed = self.failed().get(&deployment).copied().unwrap_or_default();
        REST[1].min(REST[0] * 2_u32.saturating_pow(failed.saturating_sub(1)))
    }

    /// Forgets deployments that are decided.
    pub fn retain(&self, open: &[OpenDeployment]) {
        self.failed().retain(|failed, _| open.iter().any(|open| open.id == *failed));
    }

    fn fail(&self, deployment: i64) -> u32 {
        let mut failed = self.failed();
        let count = failed.entry(deployment).or_default();
        *count += 1;
        *count
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<i64, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what this host can do for an open deployment. `true`: something changed, so ask again.
pub async fn advance(
    store: &Arc<dyn Store>,
    versions: &Arc<ComponentCache>,
    host: Uuid,
    open: &OpenDeployment,
    attempts: &Attempts,
) -> Result<bool, StoreError> {
    let Some(mine) = open.hosts.iter().find(|report| report.host == host) else { return Ok(false) };
    let (projection, digest) = (&*open.projection, &*open.digest);
    if mine.said.is_none() {
        let refusal = match versions.of(&**store, projection, digest).await {
            Ok(_) => None,
            Err(VersionError::Store(error)) if error.kind().response() == Response::Retry => {
                return Err(error);
            }
            Err(VersionError::Load(error)) if error.is_ours() => {
                tracing::warn!(projection, digest, %error, "a component cannot be compiled now; tried again");
                return Ok(false);
            }
            Err(error) => {
                let advice = FailureKind::Component.advice();
                tracing::error!(projection, digest, %error, advice, "this host cannot run the component");
                Some(projector_core::event_failure::shown(error))
            }
        };
        store.report(open.id, host, refusal.as_deref()).await?;
        return Ok(true);
    }
    if open.hosts.iter().any(|report| report.said.is_none()) {
        return Ok(false);
    }
    let refusals: Vec<String> = open
        .hosts
        .iter()
        .filter_map(|report| match &report.said {
            Some(Err(refusal)) => Some(format!("{}: {refusal}", report.name)),
            _ => None,
        })
        .collect();
    if refusals.len() == open.hosts.len() {
        store.refuse(open.id, &format!("no host can run it: {}", refusals.join("; "))).await?;
        return Ok(true);
    }
    // A host that can run it does the rest.
    if mine.said != Some(Ok(())) {
        return Ok(false);
    }
    let plugin = match versions.of(&**store, projection, digest).await {
        Ok(plugin) => plugin,
        Err(VersionError::Store(error)) => return Err(error),
        Err(error) => {
            tracing::warn!(projection, digest, %error, "a component cannot be compiled now; tried again");
            return Ok(false);
        }
    };
    let topics = match versions.topics(&plugin.contract) {
        Ok(topics) => topics,
        Err(error) => {
            store.refuse(open.id, &error.to_string()).await?;
            return Ok(true);
        }
    };
    let offered = Offered { contract: &plugin.contract, topics: &topics };
    match store.activate(open.id, offered).await {
        Ok(None) => Ok(false),
        Ok(Some(installed)) => {
            let (generation, version) = (installed.generation.number, &plugin.contract.descriptor.version);
            match installed.role {
                Role::Live => tracing::info!(projection, generation, version, digest, "version active"),
                // Readers see another one.
                role => {
                    let role = role.as_str();
                    tracing::info!(
                        projection,
                        generation,
                        role,
                        version,
                        digest,
                        "version active in a generation beside the live one"
                    );
                }
            }
            for refusal in &refusals {
                tracing::warn!(projection, digest, refusal, "a host cannot run it, and leaves its group");
            }
            Ok(true)
        }
        Err(error) => {
            let refusal = match error.kind().response() {
                // If the database answers nothing else either, the deployment is not to blame. Nor is it for a
                // lock that another session holds, or for a right that a person has to grant.
                Response::Retry => {
                    let is_suspect = matches!(error.kind(), FailureKind::Database | FailureKind::Slow)
                        && store.reports(open.id).await.is_ok();
                    if !is_suspect || attempts.fail(open.id) < MOST_ATTEMPTS {
                        return Err(error);
                    }
                    format!(
                        "the database refused it {MOST_ATTEMPTS} times, and answered otherwise: {error}; deploy it again once that is over"
                    )
                }
                _ => error.to_string(),
            };
            tracing::error!(projection, digest, error = refusal, "deployment refused");
            store.give_up(open.id, offered, &projector_core::event_failure::printable(&refusal)).await?;
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_that_fails_rests_longer_each_time_until_it_is_decided() {
        let attempts = Attempts::default();
        let mut rests = vec![attempts.rest(1).as_millis()];
        for _ in 0..7 {
            attempts.fail(1);
            rests.push(attempts.rest(1).as_millis());
        }
        assert_eq!(rests, [500, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(attempts.rest(2).as_millis(), 500);
        attempts.retain(&[]);
        assert_eq!((attempts.rest(1).as_millis(), attempts.fail(1)), (500, 1));
    }
}
