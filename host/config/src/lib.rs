//! The configuration: one typed TOML file, with secrets from the environment and from files.
//!
//! Any string may contain `${NAME}`, which is replaced by an environment variable, and `${file:/path}`,
//! which is replaced by the content of a file. There is a module for each section of the file. `file` reads
//! the file, and `check` refuses settings that contradict each other.
//!
//! Invariants: an unknown key is an error. Each error names the file, the line and, if there is one, the
//! nearest known key. No error and no `Debug` output contains a secret.

mod admin;
mod batch;
mod check;
mod deploy;
mod error;
mod file;
mod kafka;
mod limits;
mod mask;
mod origin;
mod plugins;
mod projection;
mod share;
mod shown;
mod start;
mod store;
mod text;
mod unused;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use projector_core::failure_policy::Failures;
use projector_core::generation::GenerationStatus;
use projector_core::topics::{PhysicalTopics, TopicError, TopicMapping};

pub use admin::{Admin, May, Token};
pub use batch::BatchSettings;
pub use deploy::{Deploy, Keep, Promote};
pub use error::{ConfigError, Problem, nearest_property};
pub use kafka::{
    Kafka, METADATA_REFRESH_MS, Oidc, Protocol, SESSION_TIMEOUT_MS, Sasl, SaslMechanism, Tls, VALUE_BYTES,
};
pub use limits::{BatchBudget, ComponentLimits, EventLimits, InstanceLimits, Limits, MOST_STACK_BYTES};
pub use mask::is_secret_key as is_secret;
pub use plugins::{Plugins, Team};
pub use projection::{Defaults, Projection};
pub use start::{Start, StartAt, rfc3339, time};
pub use store::Store;
pub use text::{Text, TextError};
pub use unused::Known;

use origin::Origin;

/// The configuration file.
#[derive(Debug, Clone)]
pub struct Config {
    pub kafka: Kafka,
    pub plugins: Plugins,
    /// The default read-model database.
    pub store: Store,
    /// More read-model databases, by name, for projections that need a database of their own.
    pub stores: BTreeMap<String, Store>,
    /// Settings of single projections, by the projection's name.
    pub projections: BTreeMap<String, Projection>,
    /// Settings of projections that have no settings of their own.
    pub defaults: Defaults,
    /// The HTTP API for operators and their tools. Without this table there is no API.
    pub admin: Option<Admin>,
    /// How long a stopping host waits for the transactions in flight before they are rolled back.
    pub shutdown_deadline: Duration,
    /// The file's text, to show the place of an error that is found after parsing.
    origin: Origin,
}

impl Config {
    /// The settings of a projection's store.
    pub fn store_of(&self, projection: &str) -> &Store {
        let named = self.own(projection, |own| own.store.as_ref());
        named.and_then(|name| self.stores.get(&**name)).unwrap_or(&self.store)
    }

    /// Every configured database once, the default one first.
    pub fn all_stores(&self) -> impl Iterator<Item = &Store> {
        let mut seen = HashSet::new();
        std::iter::once(&self.store).chain(self.stores.values()).filter(move |store| seen.insert(&*store.url))
    }

    /// What a projection's plugin may use.
    pub fn limits_of(&self, projection: &str) -> &Limits {
        self.own(projection, |own| own.limits.as_ref()).unwrap_or(&self.defaults.limits)
    }

    /// The largest size of a component of any projection, in bytes.
    pub fn most_component_bytes(&self) -> usize {
        let own = self.projections.values().filter_map(|own| own.limits.as_ref());
        let all = std::iter::once(&self.defaults.limits).chain(own);
        all.map(|limits| limits.component.bytes).max().unwrap_or(0)
    }

    pub fn batch_of(&self, projection: &str) -> &BatchSettings {
        self.own(projection, |own| own.batch.as_ref()).unwrap_or(&self.defaults.batch)
    }

    pub fn failures_of(&self, projection: &str) -> &Failures {
        self.own(projection, |own| own.failures.as_ref()).unwrap_or(&self.defaults.failures)
    }

    /// How many lanes a projection has. At least one.
    pub fn lanes_of(&self, projection: &str) -> usize {
        self.own(projection, |own| own.lanes.as_ref()).unwrap_or(&self.defaults.lanes).get()
    }

    pub fn deploy_of(&self, projection: &str) -> &Deploy {
        self.own(projection, |own| own.deploy.as_ref()).unwrap_or(&self.defaults.deploy)
    }

    pub fn keep_of(&self, projection: &str) -> &Keep {
        self.own(projection, |own| own.keep.as_ref()).unwrap_or(&self.defaults.keep)
    }

    /// Where a new generation of a projection starts to read.
    pub fn start_of(&self, projection: &str) -> Start {
        let own = self.own(projection, |own| own.start.as_ref());
        own.cloned().unwrap_or(Start::Everywhere(StartAt::Earliest))
    }

    /// Whether a projection may read a logical topic.
    pub fn may_read(&self, projection: &str, topic: &str) -> bool {
        let granted = self.own(projection, |own| own.topics.as_ref());
        granted.is_none_or(|granted| granted.iter().any(|name| **name == *topic))
    }

    /// The physical topics of a projection's logical topics, which are given in the order of its contract.
    /// An error if a logical topic that is not listed in `[kafka.topics]` cannot be the name of a topic.
    pub fn topics_of<'n>(
        &self,
        logical: impl IntoIterator<Item = &'n str>,
    ) -> Result<TopicMapping, TopicError> {
        let physical = |name: &str| match self.kafka.topics.get(name) {
            Some(topics) => Ok(topics.clone()),
            None => PhysicalTopics::named(name),
        };
        let pairs = logical.into_iter().map(|name| Ok((name.to_owned(), physical(name)?)));
        Ok(TopicMapping::new(pairs.collect::<Result<Vec<_>, _>>()?))
    }

    /// The physical topics of a generation: as it was built, whatever the configuration says by now. A generation
    /// of a host that did not store them has those that the configuration names.
    pub fn topics_of_generation(&self, status: &GenerationStatus) -> Result<TopicMapping, TopicError> {
        let configured = self.topics_of(status.descriptor.topics.iter().map(|topic| &*topic.name))?;
        Ok(status.layout.mapping(&configured))
    }

    /// A setting of a projection's own table. `None` if the table or the setting is missing.
    fn own<'c, T>(
        &'c self,
        projection: &str,
        setting: impl FnOnce(&'c Projection) -> Option<&'c T>,
    ) -> Option<&'c T> {
        self.projections.get(projection).and_then(setting)
    }

    /// An error for a problem that was found after parsing, at the problem's place in the file.
    pub fn invalid(&self, problem: Problem) -> Box<ConfigError> {
        self.origin.at_key(problem)
    }
}
