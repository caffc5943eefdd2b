//! Components that this host can run: each is compiled once, and kept for as long as it may be needed.

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
    /// The host's own executable, which compiles components in a process of its own.
    executable: PathBuf,
    /// An engine for each size of stack.
    engines: Mutex<HashMap<usize, Engine>>,
    /// Those that were asked for last come last.
    known: Mutex<Vec<Plugin>>,
}

/// So many versions are kept that nobody needs at the moment: whoever goes back and forth need not compile
/// them again.
const SPARE: usize = 8;

/// Why a version cannot be run here.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Nobody who may vouches for it.
    #[error("{0}")]
    Untrusted(String),
}

impl VersionError {
    /// Whether the fault may lie with this machine rather than with the file.
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

    /// A version that was compiled here already.
    pub fn known(&self, digest: &str) -> Option<Plugin> {
        let mut known = self.lock();
        let at = known.iter().position(|plugin| plugin.digest == digest)?;
        let plugin = known.remove(at);
        known.push(plugin.clone());
        Some(plugin)
    }

    /// A version that a store has: read, held against its digest, checked and compiled.
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
                let reason =
                    format!("the component {digest} of {projection} was changed in the store: it is {found}");
                return Err(StoreError::Unusable(reason).into());
            }
            versions.load(Path::new(&projection), &stored.bytes, stored.signature.as_deref())
        });
        let (plugin, _) =
            loading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(plugin)
    }

    /// Who vouches for a component; an error: nobody who may.
    pub fn vouched_for(
        &self,
        plugin: &Plugin,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> Result<Signer, VersionError> {
        let descriptor = &plugin.contract.descriptor;
        let voucher = self.trust.vouch(&plugin.digest, bytes, signature).map_err(refused)?;
        voucher.confirm(&descriptor.name, &descriptor.version).map_err(refused)
    }

    /// Compiles and checks a component under the limits of its projection, once somebody who may vouches for
    /// its bytes. Blocks.
    ///
    /// Which projection it is, a signature or the lock file says. Where neither is asked for, it is only known
    /// when the component is described: until then it is the one that the file is named for, and if it turns
    /// out to be another one with limits of its own, the component is compiled and described again.
    pub fn load(
        &self,
        file: &Path,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> Result<(Plugin, Signer), VersionError> {
        let voucher = self.trust.vouch(&plugin::digest(bytes), bytes, signature).map_err(refused)?;
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
        let supposed = config.limits_of(voucher.projection().unwrap_or(of_file));
        let mut plugin = under(supposed)?;
        let name = plugin.contract.name();
        let signer = voucher.confirm(name, &plugin.contract.descriptor.version).map_err(refused)?;
        if let Some(topic) = plugin.contract.topics.iter().find(|topic| !config.may_read(name, &topic.name)) {
            let (projection, topic) = (name.to_owned(), topic.name.clone());
            return Err(LoadError::NotGranted { projection, topic }.into());
        }
        self.topics(&plugin.contract).map_err(LoadError::from)?;
        if let Some(problems) = postgres::meeting(&plugin.contract) {
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

    /// What a version's topics are in the log, as the configuration has it.
    pub fn topics(&self, contract: &Contract) -> Result<TopicMapping, TopicError> {
        self.config.topics_of(contract.topics.iter().map(|topic| &*topic.name))
    }

    /// Lets go of versions that nobody uses and that were not asked for lately.
    pub fn trim(&self) {
        let mut known = self.lock();
        // Whoever uses a plugin has its contract.
        let is_used = |plugin: &Plugin| Arc::strong_count(&plugin.contract) > 1;
        let spare = known.iter().filter(|plugin| !is_used(plugin)).count();
        let mut too_many = spare.saturating_sub(SPARE);
        known.retain(|plugin| {
            let goes = too_many > 0 && !is_used(plugin);
            too_many -= usize::from(goes);
            !goes
        });
    }

    fn engine(&self, stack_bytes: usize) -> Engine {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Engine::new(stack_bytes).expect("this executable's own engine settings are sound");
        engines.entry(stack_bytes).or_insert_with(new).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Plugin>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
