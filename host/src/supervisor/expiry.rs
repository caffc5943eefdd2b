//! Discards dead letters that are older than the projection's retention.
//!
//! Every host with a lane of the generation does so. What one host has discarded, the others do not find.

use std::time::Duration;

use projector_store::operator::Requester;

use super::Host;
use crate::retry::Backoff;
use crate::settle::Settler;

/// How often old dead letters are looked for.
const INTERVAL: Duration = Duration::from_secs(60);

impl Host {
    /// Discards old dead letters, for as long as the generation runs.
    pub(super) async fn expire(&self, settler: &Settler) {
        let (store, generation) = (&settler.store, &settler.deployment.generation);
        let Some(retention) = self.config.failures_of(&generation.projection).retention else {
            return std::future::pending().await;
        };
        let retained = humantime_serde::re::humantime::format_duration(retention);
        let asked = Requester::host(Some(format!("retention of {retained}")));
        let mut backoff = Backoff::new(&generation.projection, &self.retries);
        loop {
            match store.expire(generation, retention.as_secs() as i64, &asked).await {
                Ok(0) => {
                    backoff.succeeded();
                    tokio::time::sleep(INTERVAL).await;
                }
                // The store discards a limited number at once: ask again immediately.
                Ok(letters) => {
                    backoff.succeeded();
                    tracing::info!(
                        projection = generation.projection,
                        letters,
                        "dead letters discarded by their age"
                    );
                }
                Err(error) => {
                    let reason = format!("old dead letters could not be discarded: {error}");
                    backoff.failed(error.kind(), &reason);
                    tokio::time::sleep(backoff.delay()).await;
                }
            }
        }
    }
}
