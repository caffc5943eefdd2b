//! A deployment's way from a wish to the version that runs: every host that is there says whether it can
//! run it, and then any of them carries it out. What each step needs is in the store, so that whoever dies
//! leaves nothing undone.

use std::sync::Arc;

use uuid::Uuid;

use super::layout::Offered;
use super::versions::{VersionError, Versions};
use crate::failure::{FailureKind, Response};
use crate::store::deployments::OpenDeployment;
use crate::store::{Store, StoreError};

/// Does what this host can do for an open deployment. `true`: something changed, so ask again.
pub async fn advance(
    store: &Arc<dyn Store>,
    versions: &Arc<Versions>,
    host: Uuid,
    open: &OpenDeployment,
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
                Some(crate::outcome::shown(error))
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
            tracing::info!(projection, generation, version, digest, "version active");
            for refusal in &refusals {
                tracing::warn!(projection, digest, refusal, "a host cannot run it, and leaves its group");
            }
            Ok(true)
        }
        Err(error) if error.kind().response() == Response::Retry => Err(error),
        Err(error) => {
            tracing::error!(projection, digest, %error, "deployment refused");
            store.refuse(open.id, &crate::outcome::shown(&error)).await?;
            Ok(true)
        }
    }
}
