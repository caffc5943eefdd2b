//! Discards dead letters that are older than the projection's `[failures] retention`.
//!
//! Every host that runs the generation does this. A dead letter that one host has discarded is gone for the others, so
//! no lock is needed between hosts.

use std::time::Duration;

use projector_store::Requester;

use super::Host;
use crate::retry::Backoff;
use crate::settle::Settler;

/// The pause after a round in which no dead letter was too old.
const INTERVAL: Duration = Duration::from_secs(60);

impl Host {
    /// Discards old dead letters for as long as the generation runs. A failure is retried after a backoff.
    pub(super) async fn expire_dead_letters(&self, settler: &Settler) {
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
                // The store discards a limited number in one transaction: continue at once.
                Ok(dead_letters) => {
                    backoff.succeeded();
                    tracing::info!(
                        projection = generation.projection,
                        dead_letters,
                        "dead letters were discarded because they are older than the retention"
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
