//! Carries out open deployments.
//!
//! Each live host first compiles the component and reports to the store whether it can run it. When all have
//! reported, any host that can run it activates the version. All that a step needs is in the store: if a host dies,
//! another one continues.

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

/// A deployment is given up after so many failed attempts to activate it, if the database answers other requests.
const MOST_ATTEMPTS: u32 = 10;
/// The pause after the first failed attempt, and the longest one. Each pause is twice as long as the one before.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// How often this host has failed to activate each open deployment of a store.
#[derive(Default)]
pub struct Attempts(Mutex<HashMap<i64, u32>>);

impl Attempts {
    /// How long to wait before the next attempt.
    pub fn pause(&self, deployment: i64) -> Duration {
        let failed = self.failed().get(&deployment).copied().unwrap_or_default();
        PAUSES[1].min(PAUSES[0] * 2_u32.saturating_pow(failed.saturating_sub(1)))
    }

    /// Forgets deployments that are not open any more.
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

/// Takes the next step of an open deployment, if it is this host's turn. `true`: something changed, so call it again.
pub async fn advance(
    store: &Arc<dyn Store>,
    versions: &Arc<ComponentCache>,
    host: Uuid,
    open: &OpenDeployment,
    attempts: &Attempts,
) -> Result<bool, StoreError> {
    let Some(mine) = open.hosts.iter().find(|report| report.host == host) else { return Ok(false) };
    let (projection, digest) = (&*open.projection, &*open.digest);
    if mine.answer.is_none() {
        let refusal = match versions.of(&**store, projection, digest).await {
            Ok(_) => None,
            Err(VersionError::Store(error)) if error.kind().response() == Response::Retry => {
                return Err(error);
            }
            Err(VersionError::Load(error)) if error.is_ours() => {
                tracing::warn!(projection, digest, %error, "this host cannot compile the component now; it tries again");
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
    if open.hosts.iter().any(|report| report.answer.is_none()) {
        return Ok(false);
    }
    let refusals: Vec<String> = open
        .hosts
        .iter()
        .filter_map(|report| match &report.answer {
            Some(Err(refusal)) => Some(format!("{}: {refusal}", report.name)),
            _ => None,
        })
        .collect();
    if refusals.len() == open.hosts.len() {
        store.refuse(open.id, &format!("no host can run the component: {}", refusals.join("; "))).await?;
        return Ok(true);
    }
    // A host that can run the component activates the version.
    if mine.answer != Some(Ok(())) {
        return Ok(false);
    }
    let plugin = match versions.of(&**store, projection, digest).await {
        Ok(plugin) => plugin,
        Err(VersionError::Store(error)) => return Err(error),
        Err(error) => {
            tracing::warn!(projection, digest, %error, "this host cannot compile the component now; it tries again");
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
                // Readers see another generation.
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
                tracing::warn!(
                    projection,
                    digest,
                    refusal,
                    "a host cannot run the version, and leaves the consumer group"
                );
            }
            Ok(true)
        }
        Err(error) => {
            let refusal = match error.kind().response() {
                // Retry for as long as the cause is elsewhere: the database answers no other request either, another
                // session holds a lock, or a person has to grant a right. Otherwise the deployment itself is the
                // likely cause, and it is given up after `MOST_ATTEMPTS`.
                Response::Retry => {
                    let is_suspect = matches!(error.kind(), FailureKind::Database | FailureKind::Slow)
                        && store.reports(open.id).await.is_ok();
                    if !is_suspect || attempts.fail(open.id) < MOST_ATTEMPTS {
                        return Err(error);
                    }
                    format!(
                        "the database refused the deployment {MOST_ATTEMPTS} times, and answered other requests: {error}; when the cause is mended, deploy the component again"
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
    fn the_pause_doubles_with_each_failed_attempt_until_the_deployment_is_decided() {
        let attempts = Attempts::default();
        let mut pauses = vec![attempts.pause(1).as_millis()];
        for _ in 0..7 {
            attempts.fail(1);
            pauses.push(attempts.pause(1).as_millis());
        }
        assert_eq!(pauses, [500, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(attempts.pause(2).as_millis(), 500);
        attempts.retain(&[]);
        assert_eq!((attempts.pause(1).as_millis(), attempts.fail(1)), (500, 1));
    }
}
