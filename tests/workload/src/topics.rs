//! Topics are made, grown and removed here.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication, TopicResult,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;

const PATIENCE: Duration = Duration::from_secs(30);

/// A topic to be created, with one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    /// As in Kafka: `("cleanup.policy", "compact")`.
    pub settings: Vec<(String, String)>,
    /// The broker of each partition. Empty: Kafka chooses.
    pub brokers: Vec<i32>,
}

impl Topic {
    pub fn new(name: impl Into<String>, partitions: i32) -> Topic {
        Topic { name: name.into(), partitions, settings: Vec::new(), brokers: Vec::new() }
    }

    /// A partition on each of these brokers, in this order.
    pub fn on(name: impl Into<String>, brokers: &[i32]) -> Topic {
        Topic { brokers: brokers.to_vec(), ..Topic::new(name, brokers.len() as i32) }
    }

    pub fn setting(mut self, name: &str, value: &str) -> Topic {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Creates `topics`; an existing one is an error.
pub fn create(brokers: &str, topics: &[Topic]) -> Result<()> {
    let chosen: Vec<Vec<&[i32]>> =
        topics.iter().map(|topic| topic.brokers.iter().map(std::slice::from_ref).collect()).collect();
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .zip(&chosen)
        .map(|(topic, brokers)| NewTopic {
            name: &topic.name,
            num_partitions: topic.partitions,
            replication: match brokers.is_empty() {
                true => TopicReplication::Fixed(1),
                false => TopicReplication::Variable(brokers),
            },
            config: topic.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        })
        .collect();
    wait_for(brokers, "create", |admin, options| admin.create_topics(&new, options))
}

/// Deletes topics with their records; a missing one is an error.
pub fn delete(brokers: &str, names: &[&str]) -> Result<()> {
    wait_for(brokers, "delete", |admin, options| admin.delete_topics(names, options))
}

/// Lets a topic grow to `partitions` partitions in all. Returns once a client that is new sees them: the brokers
/// answer before their metadata has them.
pub fn grow(brokers: &str, name: &str, partitions: usize) -> Result<()> {
    let grown = [NewPartitions::new(name, partitions)];
    wait_for(brokers, "add partitions to", |admin, options| admin.create_partitions(&grown, options))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
        let metadata = client.fetch_metadata(Some(name), PATIENCE)?;
        let found = metadata.topics().iter().find(|topic| topic.name() == name);
        let found = found.map_or(0, |topic| topic.partitions().len());
        if found >= partitions {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "topic {name} has {found} partitions, and not {partitions}");
    }
}

/// Gives topics these settings, and those of the brokers for all others. Returns once the brokers tell them: records that are
/// written right then may still be written by the settings of before.
pub fn set(brokers: &str, names: &[&str], settings: &[(&str, &str)]) -> Result<()> {
    let (admin, options) = admin(brokers)?;
    let altered: Vec<AlterConfig<'_>> = names
        .iter()
        .map(|name| AlterConfig {
            specifier: ResourceSpecifier::Topic(name),
            entries: settings.iter().copied().collect(),
        })
        .collect();
    for result in block_on(admin.alter_configs(&altered, &options))? {
        result.map_err(|(specifier, code)| anyhow!("cannot set up {specifier:?}: {code}"))?;
    }
    let asked: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = block_on(admin.describe_configs(&asked, &options))?;
        let are_told = |resource: &ConfigResource| {
            settings.iter().all(|(name, value)| {
                resource.get(name).is_some_and(|entry| entry.value.as_deref() == Some(*value))
            })
        };
        if told.iter().all(|resource| resource.as_ref().is_ok_and(are_told)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{names:?} have not the settings {settings:?}");
    }
}

fn admin(brokers: &str) -> Result<(AdminClient<DefaultClientContext>, AdminOptions)> {
    let admin = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .with_context(|| format!("no administrative client for {brokers}"))?;
    Ok((admin, AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))))
}

fn wait_for<Answer>(
    brokers: &str,
    what: &str,
    ask: impl FnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> Answer,
) -> Result<()>
where
    Answer: Future<Output = KafkaResult<Vec<TopicResult>>>,
{
    let (admin, options) = admin(brokers)?;
    let results =
        block_on(ask(&admin, &options)).with_context(|| format!("cannot {what} topics at {brokers}"))?;
    for result in results {
        if let Err((topic, code)) = result {
            bail!("cannot {what} topic {topic} at {brokers}: {code}");
        }
    }
    Ok(())
}
