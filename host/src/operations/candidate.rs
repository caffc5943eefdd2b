//! A component that may be deployed: read from a file or from the store, checked, and compiled.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use projector_config::Config;
use projector_core::ownership::Signer;
use projector_core::topics::TopicMapping;
use projector_sandbox::Plugin;
use projector_store::Store;

use super::OperationError;
use crate::deploy::component_cache::{ComponentCache, VersionError};
use crate::deploy::trust::TrustPolicy;

/// A checked component, and who signed it.
pub(super) struct Candidate {
    pub(super) plugin: Plugin,
    pub(super) bytes: Vec<u8>,
    pub(super) signature: Option<String>,
    pub(super) signer: Signer,
    /// The physical topics that it reads, as the configuration maps them.
    pub(super) topics: TopicMapping,
}

/// The cache in which a command compiles components.
fn component_cache(config: &Config, executable: PathBuf) -> Result<Arc<ComponentCache>, OperationError> {
    let trust = TrustPolicy::load(&config.plugins).map_err(OperationError::Failed)?;
    Ok(Arc::new(ComponentCache::new(Arc::new(config.clone()), trust, executable)))
}

/// Reads, checks and compiles a file, with the signature beside it if there is one.
pub(super) fn from_file(
    config: &Config,
    executable: PathBuf,
    file: &Path,
) -> Result<Candidate, OperationError> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| OperationError::Usage {
        message: format!("{shown} cannot be read: {error}"),
        help: "name the file of a component, as `projector component` makes it".into(),
    })?;
    let mut beside = file.as_os_str().to_owned();
    beside.push(".minisig");
    let signature = std::fs::read_to_string(&beside).ok();
    let cache = component_cache(config, executable)?;
    let refused = |error: &dyn std::fmt::Display| OperationError::Failed(format!("{shown}: {error}"));
    let (plugin, signer) = cache.load(file, &bytes, signature.as_deref()).map_err(|error| refused(&error))?;
    let topics = cache.topics(&plugin.contract).map_err(|error| refused(&error))?;
    Ok(Candidate { plugin, bytes, signature, signer, topics })
}

/// Reads and compiles a component of the store. The trust policy of today must permit it, even if it ran before.
pub(super) async fn from_store(
    config: &Config,
    executable: PathBuf,
    store: &dyn Store,
    name: &str,
    digest: &str,
) -> Result<Candidate, OperationError> {
    let cache = component_cache(config, executable)?;
    let refused = |error: VersionError| match error {
        VersionError::Store(error) => OperationError::from(error),
        error => OperationError::Failed(format!("the component {digest}: {error}")),
    };
    let plugin = cache.of(store, name, digest).await.map_err(refused)?;
    let stored = store.component(digest).await?.ok_or_else(|| {
        OperationError::Failed(format!("the component {digest} is not in the store any more"))
    })?;
    let signature = stored.signature;
    let signer = cache.signer(&plugin, &stored.bytes, signature.as_deref()).map_err(refused)?;
    let topics = cache.topics(&plugin.contract).map_err(|error| OperationError::Failed(error.to_string()))?;
    Ok(Candidate { plugin, bytes: stored.bytes, signature, signer, topics })
}
