//! Offers the files of the plugin directory to the stores.
//!
//! A file is read when it is complete. Then it is checked, compiled, and proposed to the store of its projection, which
//! decides. A file that is not a valid plugin is refused and logged, and does not delay other files. A failure of the
//! database or of this machine does not refuse the file: the host retries until the store has decided.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::failure::FailureKind;
use projector_core::generation::Role;
use projector_core::ownership::Signer;
use projector_model::order;
use projector_sandbox::Plugin;
use projector_store::deployments::{Proposal, Proposed};
use projector_store::{Component, Requester, StoreError};
use tokio::task::JoinSet;

use super::Host;
use super::restart::crash_text;
use crate::deploy::watch::{File, Watch};
use crate::operations::unused::unused;
use crate::retry::Backoff;

/// The plugins that are in the directory at the start have this time to load. Then the names in the configuration that
/// no plugin has are reported.
const LOAD_TIME: Duration = Duration::from_secs(10);

impl Host {
    /// Warns once about names in the configuration that no plugin has. First waits until the plugins of the directory
    /// had time to load, and all databases respond.
    pub(super) async fn warn_of_unused(self: Arc<Self>) {
        let warnings = loop {
            tokio::select! {
                () = tokio::time::sleep(LOAD_TIME) => {}
                () = self.stop.cancelled() => return,
            }
            let offered = self.files.projections().into_iter();
            let known = offered.map(|name| (name, BTreeSet::new())).collect();
            if let Some(warnings) = unused(&self.config, known).await {
                break warnings;
            }
        };
        for warning in warnings {
            tracing::warn!(warning, "a name in the configuration has no effect");
        }
    }

    /// Offers each file of the plugin directory, once it is complete.
    pub(super) async fn watch(self: Arc<Self>) {
        let plugins = &self.config.plugins;
        let most_bytes = self.config.most_component_bytes();
        let mut watch = Watch::open(&plugins.directory, plugins.rescan, most_bytes);
        let mut offers = JoinSet::new();
        loop {
            tokio::select! {
                file = watch.next() => {
                    // Files are compiled one after the other. Proposals to the stores run at the same time.
                    let loaded = self.clone().load(file).await;
                    if let Some((file, plugin, signer)) = loaded {
                        offers.spawn(self.clone().offer(file, plugin, signer));
                    }
                }
                Some(offered) = offers.join_next() => {
                    if let Err(error) = offered {
                        let reason = crash_text(error);
                        let advice = FailureKind::Crash.advice();
                        tracing::error!(reason, advice, "the task that offers a plugin to its database panicked; copy the plugin's file again");
                    }
                }
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Checks the file's signature, then compiles and checks its component. `None`: the file is refused.
    async fn load(self: Arc<Self>, file: File) -> Option<(File, Plugin, Signer)> {
        let path = file.path.display().to_string();
        let mut backoff = Backoff::new(&path, &self.retries);
        let mut next = file;
        let loaded = loop {
            let (host, file) = (self.clone(), next);
            let loading = tokio::task::spawn_blocking(move || {
                let loaded = host.versions.load(&file.path, &file.bytes, file.signature.as_deref());
                (file, loaded)
            });
            match loading.await {
                // This machine failed, and the file is not the cause: try again.
                Ok((file, Err(error))) if error.is_ours() && !self.stop.is_cancelled() => {
                    backoff.failed(FailureKind::Machine, &error);
                    backoff.wait(&self.stop).await;
                    next = file;
                }
                loaded => break loaded,
            }
        };
        match loaded {
            Ok((file, Ok((plugin, signer)))) => Some((file, plugin, signer)),
            Ok((file, Err(error))) => {
                self.files.refuse(&file.path);
                let (reason, advice) =
                    (projector_core::event_failure::shown(&error), FailureKind::Component.advice());
                tracing::error!(file = path, reason, advice, "plugin refused");
                None
            }
            Err(error) => {
                let (reason, advice) = (crash_text(error), FailureKind::Crash.advice());
                tracing::error!(file = path, reason, advice, "plugin refused: loading it panicked");
                None
            }
        }
    }

    /// Proposes a file's component to the projection's store, until the store has decided.
    async fn offer(self: Arc<Self>, file: File, plugin: Plugin, signer: Signer) {
        let contract = &plugin.contract;
        let (name, path) = (contract.name(), file.path.display().to_string());
        let refused = |reason: String| {
            self.files.refuse(&file.path);
            let advice = FailureKind::Component.advice();
            tracing::error!(projection = name, file = path, reason, advice, "plugin refused");
        };
        let _turn = self.files.turn(&file.path, name).await;
        if let Some(owner) = self.files.other_owner(&file.path, name) {
            return refused(format!(
                "the file {} already has a component of projection {name}: remove one of the two files, and copy the other one again",
                owner.display()
            ));
        }
        for dependence in order::unsettled(contract) {
            tracing::warn!(
                projection = name,
                column = format!("{}.{}", dependence.table, dependence.column),
                sources = dependence.sources.join(", "),
                "the column's value depends on the order between partitions: {}",
                dependence.remedy
            );
        }
        for rejection in order::rejections(contract) {
            tracing::warn!(
                projection = name,
                topic = rejection.topic,
                by = rejection.by,
                table = rejection.table,
                sources = rejection.sources.join(", "),
                "{}, depending on the order between partitions: {}",
                if rejection.certain { "events are rejected" } else { "events may be rejected" },
                rejection.remedy
            );
        }
        let component = Component {
            digest: &plugin.digest,
            bytes: &file.bytes,
            contract,
            signature: file.signature.as_deref(),
        };
        let proposal = Proposal {
            component,
            action: DeploymentAction::Deploy,
            origin: Origin::Directory,
            requester: Requester::host(Some(path.clone())),
            signer: &signer,
        };
        let mut backoff = Backoff::new(name, &self.retries);
        while !self.stop.is_cancelled() {
            let proposed = async {
                let (store, watcher) = self.store(self.config.store_of(name)).await?;
                let proposed = store.propose(&proposal).await?;
                watcher.refresh().await?;
                Ok::<_, StoreError>((store.generations(name).await?, proposed))
            };
            match proposed.await {
                Ok((_, Proposed::Open(_) | Proposed::Active)) => {
                    self.files.accept(&file.path, name);
                    return;
                }
                Ok((standings, Proposed::Had)) => {
                    self.files.accept(&file.path, name);
                    let newest = standings.iter().rfind(|standing| standing.role != Role::Warm);
                    let active = newest.map_or("none", |newest| &newest.active);
                    tracing::warn!(
                        projection = name,
                        file = path,
                        digest = plugin.digest,
                        active,
                        "the component in the plugin directory does not become active, because it was active in this projection before; the active component from the database runs. To activate the one in the directory, run `projector deploy`"
                    );
                    return;
                }
                Ok((_, Proposed::Foreign(reason))) => return refused(reason),
                // The store failed, and the plugin is not the cause: propose it again.
                Err(error) => {
                    backoff.failed(error.blocker(), &error);
                    backoff.wait(&self.stop).await;
                }
            }
        }
    }
}
