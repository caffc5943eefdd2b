//! What the log holds, asked by a client of its own that belongs to no group.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::bindings as native;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, Message, Offset, TopicPartitionList};

use super::client::client_config;
use crate::checkpoint::{Identity, Marks};
use crate::config;
use crate::event::Partition;

/// How long one question to the brokers may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a topic's identity is looked at while it is read.
const IDENTITY_CHECK: Duration = Duration::from_secs(10);

const COMMITTED: &str = "read_committed";
const UNCOMMITTED: &str = "read_uncommitted";

/// Why the brokers could not be asked, or a consumer not be made.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the Kafka client cannot be made: {0}")]
    Client(KafkaError),
    #[error("the poll thread cannot be started: {0}")]
    Thread(std::io::Error),
    #[error("the brokers did not answer: {0}")]
    Unanswered(KafkaError),
    #[error("the brokers did not describe topic {topic}: {reason}")]
    Undescribed { topic: String, reason: String },
}

/// A client for questions. One serves the whole host; cheap to clone.
#[derive(Clone)]
pub struct Log {
    client: Arc<BaseConsumer<Quiet>>,
    /// Sees what open transactions have written.
    uncommitted: Arc<BaseConsumer<Quiet>>,
    config: Arc<config::Kafka>,
}

impl Log {
    pub fn open(kafka: &config::Kafka) -> Result<Self, LogError> {
        Ok(Self {
            client: Arc::new(reader(kafka, COMMITTED)?),
            uncommitted: Arc::new(reader(kafka, UNCOMMITTED)?),
            config: Arc::new(kafka.clone()),
        })
    }

    /// Low and high marks and the identity of each partition, in the order asked.
    pub async fn inspect(&self, partitions: Vec<Partition>) -> Result<Vec<(Marks, Identity)>, LogError> {
        let log = self.clone();
        blocking(move || {
            let mut topics: Vec<&str> = partitions.iter().map(|partition| &*partition.topic).collect();
            topics.sort_unstable();
            topics.dedup();
            let identities = log.ask_identities(&topics)?;
            partitions
                .iter()
                .map(|partition| {
                    let identity = identities.get(&*partition.topic).cloned().unwrap_or_default();
                    Ok((log.marks(partition)?, identity))
                })
                .collect()
        })
        .await
    }

    /// The identity of each topic, by its name.
    pub async fn identities(&self, topics: Vec<Arc<str>>) -> Result<HashMap<String, Identity>, LogError> {
        let log = self.clone();
        blocking(move || log.ask_identities(&topics.iter().map(|topic| &**topic).collect::<Vec<_>>())).await
    }

    fn ask_identities(&self, topics: &[&str]) -> Result<HashMap<String, Identity>, LogError> {
        let topic_ids = self.topic_ids(topics)?;
        // After the topics: the client takes it from the last answer that it got.
        let cluster_id = self.client.client().fetch_cluster_id(PATIENCE).filter(|id| !id.is_empty());
        let identity = |topic_id| Identity { topic_id, cluster_id: cluster_id.clone() };
        Ok(topic_ids.into_iter().map(|(topic, topic_id)| (topic, identity(topic_id))).collect())
    }

    /// The partitions of each topic that exists, with the marks of each. `None` for one that does
    /// not exist.
    pub async fn topic(&self, topic: Arc<str>) -> Result<Option<Vec<(Partition, Marks)>>, LogError> {
        let log = self.clone();
        blocking(move || {
            let metadata = log.client.fetch_metadata(Some(&topic), PATIENCE).map_err(LogError::Unanswered)?;
            let partitions =
                metadata.topics().iter().filter(|found| found.name() == &*topic && found.error().is_none());
            let partitions: Vec<Partition> = partitions
                .flat_map(|found| found.partitions())
                .map(|partition| Partition::new(topic.clone(), partition.id()))
                .collect();
            if partitions.is_empty() {
                return Ok(None);
            }
            partitions
                .into_iter()
                .map(|partition| log.marks(&partition).map(|marks| (partition, marks)))
                .collect::<Result<_, _>>()
                .map(Some)
        })
        .await
    }

    /// The first record that a reader of committed events would find from an offset on: its offset
    /// and its timestamp in milliseconds. `None` if there is none up to the end of the log, which
    /// may well lie further on: behind it stand commit markers, or a transaction that is open.
    pub async fn first_visible(
        &self,
        partition: Partition,
        from: i64,
    ) -> Result<Option<(i64, Option<i64>)>, LogError> {
        let config = self.config.clone();
        blocking(move || first(&reader(&config, COMMITTED)?, &partition, from)).await
    }

    /// The timestamp in milliseconds of the first record of a transaction that is open, and holds back
    /// what was written behind it. `None`: there is none, or it has no timestamp.
    pub async fn open_transaction(&self, partition: Partition) -> Result<Option<i64>, LogError> {
        let log = self.clone();
        blocking(move || {
            let (topic, number) = (&partition.topic, partition.number);
            let written = log.uncommitted.fetch_watermarks(topic, number, PATIENCE);
            let (_, written) = written.map_err(LogError::Unanswered)?;
            // Asked after the other one: it has passed that, unless a transaction holds it back.
            let stable = log.marks(&partition)?.high;
            if stable >= written {
                return Ok(None);
            }
            let found = first(&reader(&log.config, UNCOMMITTED)?, &partition, stable)?;
            Ok(found.and_then(|(_, timestamp_ms)| timestamp_ms))
        })
        .await
    }

    /// Waits until one of these topics is not the one that it was: created anew under its name, or
    /// on another cluster. What a consumer reads on from there would be other events.
    pub(super) async fn wait_for_change(&self, topics: &[Arc<str>]) {
        let mut known = HashMap::new();
        loop {
            for topic in topics {
                let Ok(found) = self.identities(vec![topic.clone()]).await else { continue };
                let Some(identity) = found.into_values().next() else { continue };
                let before = known.insert(topic.clone(), identity.clone());
                if before.is_some_and(|before| before != identity) {
                    return;
                }
            }
            tokio::time::sleep(IDENTITY_CHECK).await;
        }
    }

    /// With `read_committed` the high mark is the last stable offset.
    fn marks(&self, partition: &Partition) -> Result<Marks, LogError> {
        let (low, high) = self
            .client
            .fetch_watermarks(&partition.topic, partition.number, PATIENCE)
            .map_err(LogError::Unanswered)?;
        Ok(Marks { low, high })
    }

    /// Kafka's ids of topics; `None` where the broker has none. The safe interface does not reach
    /// `DescribeTopics`.
    fn topic_ids(&self, topics: &[&str]) -> Result<HashMap<String, Option<String>>, LogError> {
        let names: Vec<CString> =
            topics.iter().map(|topic| CString::new(*topic)).collect::<Result<_, _>>().map_err(|_| {
                LogError::Undescribed { topic: topics.join(", "), reason: "a NUL in its name".into() }
            })?;
        let mut pointers: Vec<*const std::ffi::c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let client = self.client.client().native_ptr();
        // Any broker can answer; asking one of them spares the way to the controller, which
        // librdkafka's embedded broker does not have.
        let metadata =
            self.client.fetch_metadata(topics.first().copied(), PATIENCE).map_err(LogError::Unanswered)?;
        let broker = metadata.brokers().first().map_or(-1, |broker| broker.id());
        let undescribed =
            |reason: &str| LogError::Undescribed { topic: topics.join(", "), reason: reason.to_owned() };
        // SAFETY: every pointer is used between its creation and its destruction below; names and
        // descriptions are copied before the event that owns them is destroyed.
        unsafe {
            let collection =
                native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            let queue = native::rd_kafka_queue_new(client);
            let options = native::rd_kafka_AdminOptions_new(
                client,
                native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            );
            native::rd_kafka_AdminOptions_set_broker(options, broker, std::ptr::null_mut(), 0);
            native::rd_kafka_DescribeTopics(client, collection, options, queue);
            let event = native::rd_kafka_queue_poll(queue, PATIENCE.as_millis() as i32);
            let described = if event.is_null() {
                Err(undescribed("no answer in time"))
            } else if native::rd_kafka_event_error(event)
                != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                Err(undescribed(&text(native::rd_kafka_event_error_string(event))))
            } else {
                let result = native::rd_kafka_event_DescribeTopics_result(event);
                let mut count = 0;
                let list = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
                (0..count).map(|at| describe(*list.add(at))).collect()
            };
            if !event.is_null() {
                native::rd_kafka_event_destroy(event);
            }
            native::rd_kafka_AdminOptions_destroy(options);
            native::rd_kafka_queue_destroy(queue);
            native::rd_kafka_TopicCollection_destroy(collection);
            described
        }
    }
}

/// # Safety
/// `topic` belongs to a result that is still alive.
unsafe fn describe(
    topic: *const native::rd_kafka_TopicDescription_t,
) -> Result<(String, Option<String>), LogError> {
    // The zero UUID, which stands for "none".
    const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";
    // SAFETY: as the caller promises; the strings belong to the description.
    unsafe {
        let name = text(native::rd_kafka_TopicDescription_name(topic));
        let error = native::rd_kafka_TopicDescription_error(topic);
        if !error.is_null()
            && native::rd_kafka_error_code(error) != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return Err(LogError::Undescribed {
                topic: name,
                reason: text(native::rd_kafka_error_string(error)),
            });
        }
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        let id = (!id.is_null()).then(|| text(native::rd_kafka_Uuid_base64str(id)));
        Ok((name, id.filter(|id| !id.is_empty() && id != NONE)))
    }
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A client that can read partitions by hand, and never joins a group.
fn reader(kafka: &config::Kafka, isolation: &str) -> Result<BaseConsumer<Quiet>, LogError> {
    client_config(kafka)
        .set("isolation.level", isolation)
        .set("group.id", format!("{}.questions", &*kafka.group_prefix))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create_with_context(Quiet)
        .map_err(LogError::Client)
}

/// The first record from an offset on that a reader finds up to the end of the log.
fn first(
    reader: &BaseConsumer<Quiet>,
    partition: &Partition,
    from: i64,
) -> Result<Option<(i64, Option<i64>)>, LogError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(from))
        .and_then(|()| reader.assign(&list))
        .map_err(LogError::Client)?;
    let deadline = Instant::now() + PATIENCE * 2;
    while Instant::now() < deadline {
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => return Ok(Some((message.offset(), message.timestamp().to_millis()))),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            Some(Err(error @ KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                return Err(LogError::Unanswered(error));
            }
            Some(Err(_)) | None => {}
        }
    }
    Err(LogError::Unanswered(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)))
}

async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(answer) => answer,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Trouble shows in the answers, so these clients keep their lines to themselves.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
    }
}

impl ConsumerContext for Quiet {}
