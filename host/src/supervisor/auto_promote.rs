//! Promotes a generation that is being built, if the configuration lets hosts do this (`[deploy] promote`).
//!
//! An attempt promotes the generation or changes nothing, so it may be repeated. Several hosts may try: one succeeds,
//! and the others then find the generation live. An attempt closes the live generation's write barrier for a moment,
//! even if the promotion is refused. So the wait between two attempts doubles.

use std::time::Duration;

use projector_config as config;
use projector_core::deployment::Origin;
use projector_core::generation::Role;
use projector_store::Requester;

use super::Host;
use crate::control_state::ControlStateWatcher;
use crate::deploy::promote::{self, Ask, OldSnapshots, PromoteError, Promotion, Terms};
use crate::deploy::reach::Gaps;
use crate::settle::Settler;

/// Between two attempts: the first wait, and the longest one.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Host {
    /// Promotes the generation when it is caught up and meets the configured condition. Does not end by itself.
    pub(super) async fn auto_promote(&self, settler: &Settler, watcher: &ControlStateWatcher) {
        let (store, generation) = (&settler.store, &settler.deployment.generation);
        let name = &*generation.projection;
        let ask = match self.config.deploy_of(name).promote {
            config::Promote::Manual => return std::future::pending().await,
            config::Promote::WhenFresh => Ask::Fresh,
            config::Promote::WhenEqual => Ask::Equal,
        };
        let mut last_reason = String::new();
        let mut pause = PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            if watcher.of(generation.id).is_none_or(|control| control.role != Role::Building) {
                continue;
            }
            let standings = match store.generations(name).await {
                Ok(standings) => standings,
                Err(error) => {
                    self.retries.warn(name, "the generations could not be read for a promotion", &error);
                    continue;
                }
            };
            let of = |role| standings.iter().find(|standing| standing.role == role);
            let (Some(live), Some(new)) = (of(Role::Live), of(Role::Building)) else { continue };
            if new.generation.id != generation.id || !new.caught_up {
                continue;
            }
            let promoted = match ask == Ask::Equal && !promote::is_comparable(new) {
                true => Err(PromoteError::Refused(format!(
                    "`promote = \"when-equal\"` cannot work for {name}: its rows depend on the order between partitions, so two generations may differ without an error. Compare them yourself, and run `projector promote`"
                ))),
                false => {
                    let terms = Terms {
                        ask,
                        snapshots: OldSnapshots::Refuse,
                        gaps: Gaps::Refuse,
                        origin: Origin::Host,
                        requester: &Requester::host(None),
                    };
                    promote::promote(&self.config, &**store, &self.log, (live, new), terms).await
                }
            };
            match promoted {
                Ok(Promotion { generation, before, held_ms, move_readers, .. }) => {
                    tracing::info!(projection = name, generation, before, held_ms, "generation promoted");
                    if let Some(readers) = move_readers.filter(|readers| readers.must_move) {
                        let what = readers.to_lines().join("\n");
                        tracing::warn!(
                            projection = name,
                            generation,
                            what,
                            "readers must change to new views"
                        );
                    }
                }
                Err(error) => {
                    // The live generation could not write during the attempt: try less and less often.
                    pause = (2 * pause).min(LONGEST_PAUSE);
                    let reason = error.to_string();
                    if reason != last_reason {
                        tracing::warn!(projection = name, reason, "not promoted; the host tries again later");
                        last_reason = reason;
                    }
                }
            }
        }
    }
}
