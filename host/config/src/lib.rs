//! The configuration: one typed TOML file, with secrets from the environment and from files.
//!
//! Any string may contain `${NAME}`, which is replaced by an environment variable, and `${file:/path}`,
//! which is replaced by the content of a file. Errors name the file, the line and the nearest known key.

mod kafka;
mod mask;
mod origin;
mod shown;
mod start;
mod text;
mod unused;

use std::collections::{BTreeMap, HashSet};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use minisign_verify::PublicKey;
use projector_core::batch::BatchLimits;
use projector_core::failure_policy::Failures;
use projector_core::generation::GenerationStatus;
use projector_core::topics::{PhysicalTopics, TopicError, TopicMapping, Written};
use projector_model::nearest;
use serde::{Deserialize, Deserializer};

pub use kafka::{Oidc, Problem, Protocol, Sasl, SaslMechanism, Tls, nearest_property};
pub use mask::is_secret_key as is_secret;
use origin::Origin;
pub use start::{Start, StartAt, rfc3339, time};
pub use text::{Text, TextError};
pub use unused::Known;

/// The configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    pub kafka: Kafka,
    pub plugins: Plugins,
    /// The default read-model database.
    pub store: Store,
    /// More read-model databases, by name, for projections that need a database of their own.
    #[serde(default)]
    pub stores: BTreeMap<String, Store>,
    /// Settings of single projections, by the projection's name.
    #[serde(default)]
    pub projections: BTreeMap<String, Projection>,
    /// Limits of every plugin whose projection has no limits of its own.
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub batch: BatchSettings,
    /// What happens to events that fail.
    #[serde(default)]
    pub failures: Failures,
    /// How many lanes a projection has, unless it has a setting of its own. Only projections whose batches
    /// are independent may have several: see [`lane`](crate::lane).
    #[serde(default = "one_lane")]
    pub lanes: NonZeroUsize,
    /// How new versions are tried, and new generations are built and promoted.
    #[serde(default)]
    pub deploy: Deploy,
    /// How much of each projection's past is kept.
    #[serde(default)]
    pub keep: Keep,
    /// The HTTP API for operators and their tools. Without this table there is none.
    pub admin: Option<Admin>,
    /// How long a stopping host waits for the transactions in flight before they are rolled back.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub shutdown_deadline: Duration,
    #[serde(skip)]
    origin: Origin,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kafka {
    /// Bootstrap servers: `host:port`, several separated by commas.
    pub brokers: Text,
    /// The first part of every consumer group's id.
    #[serde(default = "default_group_prefix")]
    pub group_prefix: Text,
    pub tls: Option<Tls>,
    pub sasl: Option<Sasl>,
    /// The largest value of a record that is read. A record with a larger value becomes a dead letter that
    /// has the record's position, and not its value.
    #[serde(default = "eight_mebibytes")]
    pub value_bytes: usize,
    /// Any librdkafka property. It takes precedence over the settings above.
    #[serde(default)]
    pub properties: BTreeMap<String, Text>,
    /// The physical topics of a logical topic (the name that plugins use): a name, a list of names, or a
    /// pattern. A logical topic that is not listed has the same name in Kafka.
    #[serde(default, deserialize_with = "physical_topics")]
    pub topics: BTreeMap<String, PhysicalTopics>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Plugins {
    /// The directory whose `.wasm` files are projections, relative to the configuration file.
    pub directory: PathBuf,
    /// How often the host scans the directory, even without a notification of a change.
    #[serde(default = "thirty_seconds", with = "humantime_serde")]
    pub rescan: Duration,
    /// The lock file: the components that may run. Relative to the configuration file. Default:
    /// `plugins.lock` beside the configuration file, if that file exists when the host starts.
    pub lock: Option<PathBuf>,
    /// Teams that may sign components, by name. If there is a team, every component must be signed.
    #[serde(default)]
    pub teams: BTreeMap<String, Team>,
}

/// The default name of the lock file.
const LOCK: &str = "plugins.lock";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Team {
    /// The team's minisign public key.
    #[serde(deserialize_with = "public_key")]
    pub key: PublicKey,
    /// The projections that the team may sign. Default: all.
    pub projections: Option<Vec<Text>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Store {
    /// `postgres://user:password@host/database` or `sqlite://path/relative/to/this/file.db`.
    pub url: Text,
    /// Postgres: the password, if it is not in the URL. A password from a file is read again for each new
    /// connection.
    pub password: Option<Text>,
    /// Postgres: most connections of one host. Three are for deployments, comparisons and catching up; the
    /// rest are for lanes and for operators' requests.
    #[serde(default = "default_connections")]
    pub connections: NonZeroU32,
    /// Postgres: how long a statement may run.
    #[serde(default = "thirty_seconds", with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Postgres: how long a statement may wait for a lock.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub lock_timeout: Duration,
    /// Postgres: how long a transaction may be idle before the server ends its session. So a host that
    /// hangs in a transaction holds its locks for at most this long.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub idle_in_transaction_timeout: Duration,
}

impl Store {
    /// The URL without role, password and parameters.
    pub fn shown(&self) -> String {
        let Some((scheme, rest)) = self.url.split_once("://") else { return "a store".into() };
        let place = rest.split_once('?').map_or(rest, |(place, _)| place);
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        format!("{scheme}://{place}")
    }
}

/// How new versions are tried, and new generations are built and promoted.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Deploy {
    /// A new version is on trial until one of its lanes has committed this many batches. If it fails for an
    /// event for which the previous version does not fail, the host reverts to the previous version. 0
    /// means no trial.
    pub trial_batches: u64,
    /// The share of its time that a lane spends on building a generation beside the live one. In the rest,
    /// the lane waits, so that the database and the brokers have capacity for others.
    #[serde(deserialize_with = "share")]
    pub rebuild_share: f64,
    /// When readers are switched to a generation that was built beside the live one.
    pub promote: Promote,
    /// Tables (`customer`) and columns (`customer.name`) in which a new generation may differ from the live
    /// one.
    pub expected_differences: Vec<String>,
}

impl Default for Deploy {
    fn default() -> Self {
        Self {
            trial_batches: 100,
            rebuild_share: 0.5,
            promote: Promote::Manual,
            expected_differences: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promote {
    /// By `projector promote`.
    Manual,
    /// Automatically, as soon as the generation is fresh: all events of the log are in it.
    WhenFresh,
    /// Automatically, as soon as the generation is fresh, if its rows equal those of the live one except
    /// for `expected-differences`.
    WhenEqual,
}

/// How much of a projection's past is kept. Hosts remove the rest from time to time.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Keep {
    /// How many earlier live generations are kept, and kept current. A rollback goes back to the last of
    /// them. A generation whose views readers may still use is always kept.
    pub warm_generations: NonZeroU32,
    /// How many versions' components are kept: those that were active last. Always kept are components that
    /// are active or about to be, that a rollback would activate, and that rows with lineage may name.
    pub versions: NonZeroU32,
    /// How many rows of `projector history` are kept. The last row of each version is always kept.
    pub deployments: NonZeroU32,
    /// How many rows of `projector operations` are kept. Rows of the last minutes are always kept.
    pub operations: NonZeroU32,
}

impl Default for Keep {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).expect("the default is not zero");
        Self {
            warm_generations: number(2),
            versions: number(20),
            deployments: number(1_000),
            operations: number(10_000),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Admin {
    /// The address to listen on, for example `127.0.0.1:9700`. The API has no TLS: put a proxy with TLS in
    /// front of it.
    pub listen: SocketAddr,
    /// Clients that may send requests, by name.
    #[serde(default)]
    pub tokens: BTreeMap<String, Token>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Token {
    pub token: Text,
    #[serde(default)]
    pub may: May,
}

/// What a token permits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum May {
    /// Read requests only.
    #[default]
    Read,
    /// Also to pause, resume, skip, retry and discard.
    Operate,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Projection {
    /// The name of a store in `[stores]`.
    pub store: Option<Text>,
    /// Logical topics that the projection may read. Default: all.
    pub topics: Option<Vec<Text>>,
    pub limits: Option<Limits>,
    pub batch: Option<BatchSettings>,
    pub failures: Option<Failures>,
    pub lanes: Option<NonZeroUsize>,
    pub deploy: Option<Deploy>,
    pub keep: Option<Keep>,
    /// Where a new generation starts to read. Default: at the beginning of its topics. The setting does not
    /// affect a generation that has started.
    pub start: Option<Start>,
}

/// The largest stack of a guest: host functions that it calls need the rest of the thread's stack.
pub const MOST_STACK_BYTES: usize = 1024 * 1024;

/// What a plugin may use. An event that exceeds a limit for events fails. A batch that reaches a limit for
/// batches ends after the current event.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Wasm fuel for one call for one event: about one unit per instruction. For scale: an order of the
    /// plugin order-search takes about 35,000 for its first call, and 50,000 for the call with the
    /// customer's row.
    pub fuel: u64,
    /// Additional fuel for each byte of the event's key, value and headers, and of the rows that were found
    /// for it. For scale: reading an order and writing its items takes about 100 per byte.
    pub fuel_per_byte: u64,
    /// Wall time for one call for one event; longer, in proportion, if the event's bytes give it more fuel.
    /// This limit is only for what fuel does not measure. A busy host may exceed it without a fault of the
    /// plugin, so the batch is tried again.
    #[serde(with = "humantime_serde")]
    pub time: Duration,
    /// Fuel and wall time after which a batch ends, however few events it has, so that it does not hold its
    /// locks and partitions for too long. Counted separately for first calls, which are made before the
    /// transaction, and for calls with rows, which are made in it.
    pub batch_fuel: u64,
    #[serde(with = "humantime_serde")]
    pub batch_time: Duration,
    /// Bytes of answers after which a batch ends, counted in the same two parts; and bytes of the rows that
    /// are found for a batch.
    pub batch_bytes: usize,
    /// Linear memory of an instance: the sum of all its memories.
    pub memory_bytes: usize,
    /// Wasm stack of a call, at most 1 MiB.
    pub stack_bytes: usize,
    /// Elements of an instance's tables: the sum of all tables.
    pub table_elements: usize,
    /// Most row changes of one event.
    pub changes: usize,
    /// Most bytes of the answers for one event. The default is twice the largest value.
    pub output_bytes: usize,
    /// Most lookups of one event in each of its rounds.
    pub lookups: usize,
    /// Most bytes of the rows that are found for one event, in all its rounds.
    pub found_bytes: usize,
    /// Most log lines of a plugin per second, for all its instances and lanes together.
    pub log_lines: usize,
    /// The share of batches, from 0 to 1, whose events are projected twice to check that the plugin is a
    /// pure function. The first batch of a run is always checked, unless the share is 0.
    #[serde(deserialize_with = "share")]
    pub purity_sample: f64,
    /// Largest size of a component.
    pub component_bytes: usize,
    /// Largest size of the plugin's descriptor. Hundreds of tables stay far below the default.
    pub descriptor_bytes: usize,
    /// Most time and memory for the compilation of a component.
    #[serde(with = "humantime_serde")]
    pub compile_time: Duration,
    pub compile_memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            fuel: 100_000_000,
            fuel_per_byte: 250,
            time: Duration::from_secs(2),
            batch_fuel: 1_000_000_000,
            batch_time: Duration::from_secs(2),
            batch_bytes: VALUE_BYTES,
            memory_bytes: 16 * VALUE_BYTES,
            stack_bytes: MIB / 2,
            table_elements: 20_000,
            changes: 10_000,
            output_bytes: 2 * VALUE_BYTES,
            lookups: 100,
            found_bytes: 4 * VALUE_BYTES,
            log_lines: 100,
            purity_sample: 0.001,
            component_bytes: 32 * MIB,
            descriptor_bytes: MIB,
            compile_time: Duration::from_secs(60),
            compile_memory_bytes: 4 * 1024 * MIB as u64,
        }
    }
}

/// The largest batch for one transaction. A batch never waits until it is full.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BatchSettings {
    pub events: usize,
    pub bytes: usize,
    /// How far, in record time, a partition may be read ahead of another partition whose next record is not
    /// fetched yet. Applies while a new generation is built, and always if rows depend on the order between
    /// partitions. At zero, records are read strictly in the order of their timestamps.
    #[serde(with = "humantime_serde")]
    pub skew: Duration,
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self { events: 1_000, bytes: 4 * 1024 * 1024, skew: Duration::ZERO }
    }
}

impl BatchSettings {
    pub fn limits(&self) -> BatchLimits {
        BatchLimits { events: self.events, bytes: self.bytes }
    }
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => {
            Err(serde::de::Error::custom(format!("{share} is not a share: write a number from 0.0 to 1.0")))
        }
    }
}

/// Reads a public key: the line of a `minisign.pub` that begins with `RW`.
fn public_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
    let key = Text::deserialize(deserializer)?;
    PublicKey::from_base64(&key).map_err(|_| {
        serde::de::Error::custom(
            "this is not a minisign public key: write the line of minisign.pub that begins with RW",
        )
    })
}

/// The broker considers a host dead after this time. A usual value for consumers.
pub const SESSION_TIMEOUT_MS: u64 = 30_000;

/// How often metadata is refreshed, and so how soon new topics and partitions are found.
pub const METADATA_REFRESH_MS: u64 = 30_000;

fn default_group_prefix() -> Text {
    Text::from("projector")
}

fn one_lane() -> NonZeroUsize {
    NonZeroUsize::MIN
}

/// The default of `kafka.value-bytes`. The default limits of plugins allow to read and write a value of
/// this size.
pub const VALUE_BYTES: usize = 8 * 1024 * 1024;

fn eight_mebibytes() -> usize {
    VALUE_BYTES
}

fn default_connections() -> NonZeroU32 {
    NonZeroU32::new(20).expect("it is not 0")
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

impl Kafka {
    /// After this time without a heartbeat, the group gives a host's partitions to other hosts.
    pub fn session_timeout(&self) -> Duration {
        let own = self.properties.get("session.timeout.ms").and_then(|text| text.parse().ok());
        Duration::from_millis(own.unwrap_or(SESSION_TIMEOUT_MS))
    }

    /// How often topics that match a pattern are looked for.
    pub fn metadata_refresh(&self) -> Duration {
        let own = self.properties.get("topic.metadata.refresh.interval.ms");
        let own = own.and_then(|text| text.parse().ok()).filter(|ms| *ms > 0);
        Duration::from_millis(own.unwrap_or(METADATA_REFRESH_MS)).max(Duration::from_millis(100))
    }
}

/// Why a configuration cannot be used: the file, the place in it, and what to write instead.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ConfigError {
    #[error("{path} cannot be read: {source}")]
    #[diagnostic(help("name the configuration file with --config"))]
    Unreadable { path: String, source: std::io::Error },
    #[error("{path}:{line}: {message}")]
    Invalid {
        path: String,
        line: usize,
        message: String,
        #[source_code]
        text: miette::NamedSource<String>,
        #[label("here")]
        span: Option<miette::SourceSpan>,
        #[help]
        help: Option<String>,
    },
}

impl Config {
    /// Reads and checks a configuration file. Relative paths in it are resolved against its directory.
    pub fn load(path: &Path) -> Result<Self, Box<ConfigError>> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: shown.clone(), source })?;
        let mut config = Self::parse(&shown, &text)?;
        let base = path.parent().map(Path::to_path_buf).unwrap_or_default();
        config.plugins.directory = base.join(&config.plugins.directory);
        config.plugins.lock = match config.plugins.lock {
            Some(named) => Some(base.join(named)),
            // If the lock file cannot be checked here, the error is reported when it is read.
            None => Some(base.join(LOCK)).filter(|lock| {
                let found = std::fs::symlink_metadata(lock);
                !found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
            }),
        };
        for store in std::iter::once(&mut config.store).chain(config.stores.values_mut()) {
            store.url = store.url.as_url_below(&base);
        }
        if let Some(tls) = &mut config.kafka.tls {
            for file in [&mut tls.ca, &mut tls.certificate, &mut tls.key].into_iter().flatten() {
                *file = file.as_path_below(&base);
            }
        }
        if let Some(ca) = config.kafka.sasl.as_mut().and_then(|sasl| sasl.oidc.as_mut()?.ca.as_mut()) {
            *ca = ca.as_path_below(&base);
        }
        Ok(config)
    }

    /// Checks a configuration's text. `path` is used for errors only. Relative paths in the text stay as
    /// they are.
    pub fn parse(path: &str, text: &str) -> Result<Self, Box<ConfigError>> {
        let origin = Origin { path: path.into(), text: text.into() };
        let invalid = |message: String, span: Option<std::ops::Range<usize>>| {
            let help = nearest_key(&message);
            origin.invalid(message, span, help)
        };
        let mut config: Config =
            toml::from_str(text).map_err(|error| invalid(error.message().to_owned(), error.span()))?;
        config.origin = origin.clone();
        config.kafka.check().map_err(|problem| config.invalid(problem))?;
        let mut signers: Vec<(&String, &Team)> = Vec::new();
        for (name, team) in &config.plugins.teams {
            if let Some((other, _)) = signers.iter().find(|(_, other)| other.key == team.key) {
                let message = format!(
                    "plugins.teams.{name}.key is the same as that of plugins.teams.{other}, so a signature would not identify the team: give each team a key of its own"
                );
                let at = text
                    .find(&format!("plugins.teams.{name}"))
                    .map(|at| at..at + "plugins.teams.".len() + name.len());
                return Err(invalid(message, at));
            }
            signers.push((name, team));
        }
        for (name, projection) in &config.projections {
            if let Some(store) = &projection.store
                && !config.stores.contains_key(&**store)
            {
                let at = text.find(&format!("\"{}\"", &**store)).map(|at| at..at + store.len() + 2);
                let known: Vec<_> = config.stores.keys().map(|known| format!("`{known}`")).collect();
                return Err(invalid(
                    format!(
                        "projections.{name}.store: unknown store `{}`, expected one of {}",
                        &**store,
                        known.join(", ")
                    ),
                    at,
                ));
            }
        }
        let own = config.projections.values().filter_map(|projection| projection.limits.as_ref());
        if std::iter::once(&config.limits).chain(own).any(|limits| limits.stack_bytes > MOST_STACK_BYTES) {
            let at = text.find("stack-bytes").map(|at| at..at + "stack-bytes".len());
            return Err(invalid(format!("`stack-bytes` is too large: at most {MOST_STACK_BYTES}"), at));
        }
        for reserved in kafka::RESERVED_PROPERTIES {
            if config.kafka.properties.contains_key(*reserved) {
                let at = text.find(reserved).map(|at| at..at + reserved.len());
                return Err(invalid(
                    format!(
                        "kafka.properties.\"{reserved}\" is set by the host and must not be changed: remove this line"
                    ),
                    at,
                ));
            }
        }
        Ok(config)
    }

    /// An error for a problem that was found after parsing, at the problem's place in the file.
    pub fn invalid(&self, problem: Problem) -> Box<ConfigError> {
        let help = problem.help.or_else(|| nearest_key(&problem.message));
        self.origin.invalid(problem.message, self.origin.find(&problem.key), help)
    }

    /// The settings of a projection's store.
    pub fn store_of(&self, projection: &str) -> &Store {
        let named = self.projections.get(projection).and_then(|projection| projection.store.as_ref());
        named.and_then(|name| self.stores.get(&**name)).unwrap_or(&self.store)
    }

    /// Every configured database once, the default one first.
    pub fn all_stores(&self) -> impl Iterator<Item = &Store> {
        let mut seen = HashSet::new();
        std::iter::once(&self.store).chain(self.stores.values()).filter(move |store| seen.insert(&*store.url))
    }

    pub fn limits_of(&self, projection: &str) -> &Limits {
        self.projections.get(projection).and_then(|own| own.limits.as_ref()).unwrap_or(&self.limits)
    }

    pub fn batch_of(&self, projection: &str) -> &BatchSettings {
        self.projections.get(projection).and_then(|own| own.batch.as_ref()).unwrap_or(&self.batch)
    }

    pub fn deploy_of(&self, projection: &str) -> &Deploy {
        self.projections.get(projection).and_then(|own| own.deploy.as_ref()).unwrap_or(&self.deploy)
    }

    pub fn keep_of(&self, projection: &str) -> &Keep {
        self.projections.get(projection).and_then(|own| own.keep.as_ref()).unwrap_or(&self.keep)
    }

    /// The largest size of a component of any projection.
    pub fn most_component_bytes(&self) -> usize {
        let own = self.projections.values().filter_map(|own| own.limits.as_ref());
        std::iter::once(&self.limits).chain(own).map(|limits| limits.component_bytes).max().unwrap_or(0)
    }

    pub fn failures_of(&self, projection: &str) -> &Failures {
        self.projections.get(projection).and_then(|own| own.failures.as_ref()).unwrap_or(&self.failures)
    }

    pub fn lanes_of(&self, projection: &str) -> usize {
        self.projections.get(projection).and_then(|own| own.lanes).unwrap_or(self.lanes).get()
    }

    /// Where a new generation of a projection starts to read.
    pub fn start_of(&self, projection: &str) -> Start {
        let own = self.projections.get(projection).and_then(|own| own.start.clone());
        own.unwrap_or(Start::Everywhere(StartAt::Earliest))
    }

    /// Whether a projection may read a logical topic.
    pub fn may_read(&self, projection: &str, topic: &str) -> bool {
        let granted = self.projections.get(projection).and_then(|own| own.topics.as_ref());
        granted.is_none_or(|granted| granted.iter().any(|name| **name == *topic))
    }

    /// The physical topics of a projection's logical topics, which are given in the order of its contract.
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
}

/// The values of `[kafka.topics]`, whose strings may contain variables.
fn physical_topics<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, PhysicalTopics>, D::Error> {
    struct Value(PhysicalTopics);
    impl<'de> Deserialize<'de> for Value {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Written::<Text>(PhantomData)).map(Value)
        }
    }
    let written = BTreeMap::<String, Value>::deserialize(deserializer)?;
    Ok(written.into_iter().map(|(logical, Value(topics))| (logical, topics)).collect())
}

/// "did you mean" for serde's message about an unknown field or variant.
fn nearest_key(message: &str) -> Option<String> {
    let (unknown, expected) = message.split_once(", expected ")?;
    let given = unknown.split('`').nth(1)?;
    let known = expected.split('`').skip(1).step_by(2);
    nearest(given, known).map(|nearest| format!("did you mean `{nearest}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
[kafka]
brokers = "localhost:9092"
[kafka.topics]
"order.confirmed.v2" = "prod.order.confirmed.v2"
[plugins]
directory = "plugins"
[store]
url = "sqlite://readmodel.db"
[stores.analytics]
url = "postgres://localhost/analytics"
lock-timeout = "2s"
[projections.sales]
store = "analytics"
"#;

    fn error(text: &str) -> (String, String) {
        let error = Config::parse("projector.toml", text).expect_err("an error");
        let help = miette::Diagnostic::help(&*error).map(|help| help.to_string()).unwrap_or_default();
        (error.to_string(), help)
    }

    #[test]
    fn the_example_is_sound_and_shows_every_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../projector.toml");
        let example = std::fs::read_to_string(path).expect("the example");
        let parsed = Config::parse("projector.toml", &example).expect("sound");
        // What is commented out is uncommented, but for secrets and for tables that need others.
        let shown: String = example
            .lines()
            .map(|line| {
                line.strip_prefix("# ")
                    .filter(|rest| rest.contains(" = ") || rest.starts_with('['))
                    .unwrap_or(line)
            })
            .filter(|line| !line.contains("${"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let shown = shown.replace("[stores.analytics]", "[stores.analytics]\nurl = \"sqlite://a.db\"");
        let shown = shown.replace("username = \"projector\"", "username = \"projector\"\npassword = \"x\"");
        let shown = shown.replace("[admin.tokens.ann]", "[admin.tokens.ann]\ntoken = \"x\"");
        let shown = Config::parse("projector.toml", &shown).expect("every key exists");
        assert_eq!(format!("{:?}", shown.limits), format!("{:?}", parsed.limits));
        assert_eq!(format!("{:?}", shown.batch), format!("{:?}", parsed.batch));
        assert_eq!(format!("{:?}", shown.failures), format!("{:?}", parsed.failures));
        assert_eq!(format!("{:?}", shown.deploy), format!("{:?}", parsed.deploy));
        assert_eq!(shown.plugins.rescan, parsed.plugins.rescan);
        assert_eq!(shown.shutdown_deadline, parsed.shutdown_deadline);
    }

    #[test]
    fn a_projection_may_have_a_store_of_its_own() {
        let config = Config::parse("projector.toml", SOUND).expect("sound");
        assert_eq!(&*config.store_of("sales").url, "postgres://localhost/analytics");
        assert_eq!(config.store_of("sales").lock_timeout, Duration::from_secs(2));
        assert_eq!(&*config.store_of("order-search").url, "sqlite://readmodel.db");
        let topics = config.topics_of(["order.confirmed.v2", "other"]).expect("sound");
        let names: Vec<String> = topics.topics::<&str>([]).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["other", "prod.order.confirmed.v2"]);
    }

    #[test]
    fn a_logical_topic_is_one_several_or_all_that_match() {
        let written = r#"
"a" = ["eu.a", "us.a"]
"b" = { pattern = '^tenant-[a-z]+\.b$' }
[plugins]"#;
        let text = SOUND.replace("\n[plugins]", written);
        let config = Config::parse("projector.toml", &text).expect("sound");
        let mapping = config.topics_of(["a", "b", "c"]).expect("sound");
        assert_eq!(mapping.places("us.a"), [0]);
        assert_eq!(mapping.places("tenant-x.b"), [1]);
        assert_eq!(mapping.places("c"), [2]);
        for (wrong, expected) in [
            ("[]", "projector.toml:5: the list of physical topics is empty"),
            ("[\"x\", \"x\"]", "projector.toml:5: the list of physical topics names `x` twice"),
            ("\"^x\"", "projector.toml:5: `^x` is a pattern, not a topic's name: write { pattern = '^x' }"),
            (
                "{ pattern = '^.*$' }",
                "projector.toml:5: the pattern `^.*$` matches the internal topic `__consumer_offsets`",
            ),
            ("{ patern = '^x$' }", "projector.toml:5: unknown field `patern`"),
            ("\"__consumer_offsets\"", "projector.toml:5: `__consumer_offsets` is a topic that Kafka keeps"),
        ] {
            let (message, _) = error(&SOUND.replace("\"prod.order.confirmed.v2\"", wrong));
            assert!(message.starts_with(expected), "{wrong}: {message}");
        }
    }

    #[test]
    fn an_unknown_key_is_answered_with_line_and_nearest_key() {
        let (message, help) = error(&SOUND.replace("brokers =", "broker ="));
        assert!(message.starts_with("projector.toml:3:"), "{message}");
        assert_eq!(help, "did you mean `brokers`?");
    }

    #[test]
    fn an_unknown_store_is_named_where_it_stands() {
        let (message, help) = error(&SOUND.replace("store = \"analytics\"", "store = \"analitics\""));
        assert!(message.starts_with("projector.toml:14:"), "{message}");
        assert_eq!(help, "did you mean `analytics`?");
    }

    #[test]
    fn properties_that_the_host_relies_on_are_refused() {
        let (message, _) =
            error(&format!("{SOUND}[kafka.properties]\n\"isolation.level\" = \"read_uncommitted\"\n"));
        assert!(message.starts_with("projector.toml:16:"), "{message}");
    }

    #[test]
    fn a_share_is_one_of_a_whole() {
        for (written, is_sound) in
            [("0.0", true), ("1", true), ("1.5", false), ("-0.1", false), ("nan", false)]
        {
            let text = format!("{SOUND}[limits]\npurity-sample = {written}\n");
            assert_eq!(Config::parse("projector.toml", &text).is_ok(), is_sound, "{written}");
        }
        let (message, _) = error(&format!("{SOUND}[limits]\npurity-sample = 20.0\n"));
        assert!(message.starts_with("projector.toml:16: 20 is not a share"), "{message}");
    }

    #[test]
    fn a_stack_that_no_thread_has_is_refused() {
        let (message, _) = error(&format!("{SOUND}[limits]\nstack-bytes = 2_000_000\n"));
        assert!(
            message.starts_with("projector.toml:16:") && message.contains("at most 1048576"),
            "{message}"
        );
    }

    const KEY: &str = "RWTWKNoI37OtkWb1u2p9B5zg1W1D3mFLRLfHQzFey24nHXttU4tDfWDg";

    #[test]
    fn a_team_has_a_public_key_and_it_alone() {
        let text = format!("{SOUND}[plugins.teams.checkout]\nkey = \"{KEY}\"\nprojections = [\"sales\"]\n");
        let config = Config::parse("projector.toml", &text).expect("sound");
        assert!(config.plugins.teams["checkout"].projections.is_some());
        let (message, _) = error(&text.replace("RW", "RX"));
        assert!(message.starts_with("projector.toml:16:") && message.contains("minisign.pub"), "{message}");
        let (message, _) = error(&format!("{text}[plugins.teams.sales]\nkey = \"{KEY}\"\n"));
        assert!(
            message.starts_with("projector.toml:18: plugins.teams.sales.key is the same as that of"),
            "{message}"
        );
    }

    #[test]
    fn a_lock_is_looked_for_beside_the_configuration() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("projector.toml");
        std::fs::write(&path, SOUND).expect("written");
        assert_eq!(Config::load(&path).expect("sound").plugins.lock, None);
        std::fs::write(directory.path().join("plugins.lock"), "").expect("written");
        let found = Config::load(&path).expect("sound").plugins;
        assert_eq!(found.lock, Some(directory.path().join("plugins.lock")));
        assert_eq!(found.directory, directory.path().join("plugins"));
        let named = SOUND.replace("[plugins]", "[plugins]\nlock = \"other.lock\"");
        std::fs::write(&path, named).expect("written");
        let named = Config::load(&path).expect("sound").plugins.lock;
        assert_eq!(named, Some(directory.path().join("other.lock")));
    }
}
