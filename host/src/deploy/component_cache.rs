//! The compiled components of this host. Each component is compiled once, and its plugin is kept while it is used,
//! and for some time after that.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use projector_config::{self as config, Config};
use projector_core::ownership::Signer;
use projector_core::topics::{TopicError, TopicMapping};
use projector_model::Contract;
use projector_sandbox::compile::Compiler;
use projector_sandbox::{self as plugin, Engine, LoadError, Plugin};
use projector_store::{Store, StoreError, postgres};

use super::trust::{Refused, TrustPolicy};

pub struct ComponentCache {
    config: Arc<Config>,
    trust: TrustPolicy,
    /// The host's own executable. It compiles each component in a process of its own.
    executable: PathBuf,
    /// An engine for each size of the stack, in bytes.
    engines: Mutex<HashMap<usize, Engine>>,
    /// The compiled plugins, the most recently used one last.
    known: Mutex<Vec<Plugin>>,
}

/// How many plugins are kept that are not in use. A rollback to one of them needs no compilation.
const SPARE: usize = 8;

/// Why a version cannot be run on this host.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The trust policy refuses it.
    #[error("{0}")]
    Untrusted(String),
}

impl VersionError {
    /// Whether the cause may be this machine, not the component. Then a later attempt may succeed.
    pub fn is_ours(&self) -> bool {
        matches!(self, VersionError::Load(error) if error.is_ours())
    }
}

fn refused(refused: Refused) -> VersionError {
    VersionError::Untrusted(refused.to_string())
}

impl ComponentCache {
    pub fn new(config: Arc<Config>, trust: TrustPolicy, executable: PathBuf) -> Self {
        Self { config, trust, executable, engines: Mutex::default(), known: Mutex::default() }
    }

    /// The plugin of a digest, if this host has compiled it already.
    pub fn known(&self, digest: &str) -> Option<Plugin> {
        let mut known = self.lock();
        let at = known.iter().position(|plugin| plugin.digest == digest)?;
        let plugin = known.remove(at);
        known.push(plugin.clone());
        Some(plugin)
    }

    /// The plugin of a component in a store. If it is not compiled yet, it is read, compared with its digest,
    /// checked, and compiled.
    pub async fn of(
        self: &Arc<Self>,
        store: &dyn Store,
        projection: &str,
        digest: &str,
    ) -> Result<Plugin, VersionError> {
        if let Some(plugin) = self.known(digest) {
            return Ok(plugin);
        }
        let stored = store.component(digest).await?.ok_or_else(|| {
            StoreError::Unusable(format!("the component {digest} of {projection} is not in the store"))
        })?;
        let (versions, projection, digest) = (self.clone(), projection.to_owned(), digest.to_owned());
        let loading = tokio::task::spawn_blocking(move || {
            let found = plugin::digest(&stored.bytes);
            if found != digest {
                let reason = format!(
                    "the component {digest} of {projection} was changed in the store: its SHA-256 is now {found}"
                );
                return Err(StoreError::Unusable(reason).into());
            }
            versions.load(Path::new(&projection), &stored.bytes, stored.signature.as_deref())
        });
        let (plugin, _) =
            loading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(plugin)
    }

    /// Who signed or listed a compiled component. An error if the trust policy refuses it.
    pub fn signer(
        &self,
        plugin: &Plugin,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> Result<Signer, VersionError> {
        let descriptor = &plugin.contract.descriptor;
        let approval = self.trust.approve(&plugin.digest, bytes, signature).map_err(refused)?;
        approval.confirm(&descriptor.name, &descriptor.version).map_err(refused)
    }

    /// Checks a component's bytes against the trust policy, then compiles and checks the component under the limits
    /// of its projection. Blocks.
    ///
    /// A signature or the lock file names the projection before the compilation. If the policy asks for neither, the
    /// component itself names it, and only after the compilation. Until then the name of the file is taken for it. If
    /// the component names another projection, which has limits of its own, the component is compiled again under
    /// those.
    pub fn load(
        &self,
        file: &Path,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> Result<(Plugin, Signer), VersionError> {
        let approval = self.trust.approve(&plugin::digest(bytes), bytes, signature).map_err(refused)?;
        let under = |limits: &config::Limits| {
            let compiler = Compiler {
                executable: self.executable.clone(),
                time: limits.component.compile_time,
                memory_bytes: limits.component.compile_memory_bytes,
            };
            Plugin::load(&self.engine(limits.instance.stack_bytes), &compiler, limits, bytes)
        };
        let config = &self.config;
        let of_file = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let supposed = config.limits_of(approval.projection().unwrap_or(of_file));
        let mut plugin = under(supposed)?;
        let name = plugin.contract.name();
        let signer = approval.confirm(name, &plugin.contract.descriptor.version).map_err(refused)?;
        if let Some(topic) = plugin.contract.topics.iter().find(|topic| !config.may_read(name, &topic.name)) {
            let (projection, topic) = (name.to_owned(), topic.name.clone());
            return Err(LoadError::NotGranted { projection, topic }.into());
        }
        self.topics(&plugin.contract).map_err(LoadError::from)?;
        if let Some(problems) = postgres::name_collision(&plugin.contract) {
            return Err(LoadError::Descriptor(problems).into());
        }
        let own = config.limits_of(name);
        if !std::ptr::eq(own, supposed) {
            plugin = under(own)?;
        }
        let mut known = self.lock();
        known.retain(|known| known.digest != plugin.digest);
        known.push(plugin.clone());
        drop(known);
        Ok((plugin, signer))
    }

    /// The physical topics of a version, as the configuration maps them.
    pub fn topics(&self, contract: &Contract) -> Result<TopicMapping, TopicError> {
        self.config.topics_of(contract.topics.iter().map(|topic| &*topic.name))
    }

    /// Drops plugins that are not in use, the least recently used ones first. `SPARE` of them are kept.
    pub fn trim(&self) {
        let mut known = self.lock();
        // Each user of a plugin holds a clone of its contract.
        let is_used = |plugin: &Plugin| Arc::strong_count(&plugin.contract) > 1;
        let spare = known.iter().filter(|plugin| !is_used(plugin)).count();
        let mut too_many = spare.saturating_sub(SPARE);
        known.retain(|plugin| {
            let is_dropped = too_many > 0 && !is_used(plugin);
            too_many -= usize::from(is_dropped);
            !is_dropped
        });
    }

    fn engine(&self, stack_bytes: usize) -> Engine {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Engine::new(stack_bytes).expect("this executable's own engine settings are valid");
        engines.entry(stack_bytes).or_insert_with(new).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Plugin>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
