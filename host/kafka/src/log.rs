//! Asks the brokers about topics, offsets, records and groups, with clients that belong to no group.

mod group;
mod record;
mod times;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use projector_model::names;
use rdkafka::bindings as native;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::metadata::Metadata;
use rdkafka::{ClientContext, Message, Offset, TopicPartitionList};

use super::client::client_config;
use super::connection::{Connection, Registered};
use super::errors::{Asker, KafkaFault, Subject};
use super::fault::Faults;
use projector_config::TextError;
use projector_core::checkpoint::{Identity, Watermarks};
use projector_core::event::Partition;
use projector_core::failure::{FailureKind, panic_text};
use projector_core::member_ids::MemberIds;
use projector_core::topics::TopicMapping;

pub use group::GroupMember;
pub use record::Recalled;

/// How long one request to the brokers may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for the first answer before checking why there is none; then twice as long, and so on.
const FIRST_LOOK: Duration = Duration::from_millis(200);

/// How long to poll for librdkafka's callbacks after a request.
const HEARING: Duration = Duration::from_millis(2);

/// Most log lines and errors of librdkafka that are read after an answer. librdkafka queues them until
/// then.
const KEPT: usize = 16;

/// Time for trying the addresses of a host name one after the other.
const ADDRESSES: Duration = Duration::from_secs(1);

/// A client without an answer for this time is replaced: its connections may be dead, while new ones would
/// work.
const STUCK: Duration = Duration::from_secs(15);

/// Time for which the topic most similar to a missing one is cached.
const SIMILAR_CHECK: Duration = Duration::from_secs(60);

const COMMITTED: &str = "read_committed";
const UNCOMMITTED: &str = "read_uncommitted";

/// Why a request to the brokers failed, or a consumer could not be created.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the Kafka client cannot be created: {0}")]
    Client(KafkaError),
    #[error("a Kafka secret cannot be read: {0}")]
    Secret(TextError),
    #[error("the poll thread cannot be started: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Fault(#[from] KafkaFault),
    #[error("the task that asks the brokers panicked: {0}")]
    Panicked(String),
}

impl LogError {
    pub fn kind(&self) -> FailureKind {
        match self {
            LogError::Client(_) | LogError::Secret(_) => FailureKind::Login,
            LogError::Thread(_) => FailureKind::Machine,
            LogError::Fault(fault) => fault.kind(),
            LogError::Panicked(_) => FailureKind::Crash,
        }
    }
}

/// A partition's watermarks and its topic's identity, or why they are unknown.
pub type Inspected = Result<(Watermarks, Identity), KafkaFault>;

/// By missing topic: the most similar topic that exists, and when it was looked up.
type Similar = HashMap<Arc<str>, (Instant, Option<String>)>;

/// The partitions of a topic, each with its leader, or why it has none.
type Leaders = Vec<(Partition, Result<i32, KafkaFault>)>;

/// The client for requests to the brokers. One serves the whole host. Cheap to clone.
///
/// If a request concerns several topics or partitions, each has a result of its own: a partition without a
/// leader, a missing right or a missing topic does not affect the others.
#[derive(Clone)]
pub struct KafkaAdmin {
    connection: Connection,
    clients: Arc<Mutex<Arc<Clients>>>,
    asker: Arc<Asker>,
    /// For each missing topic: the most similar topic that exists, and when it was looked up.
    similar: Arc<Mutex<Similar>>,
}

/// The clients are replaced when the connection's files change, or when they get no answer for a while.
struct Clients {
    edition: u64,
    committed: Reader,
    /// Also reads records of open transactions.
    uncommitted: Reader,
}

impl Clients {
    fn open(connection: &Connection) -> Result<Self, LogError> {
        Ok(Self {
            edition: connection.edition(),
            committed: Reader::open(connection, COMMITTED)?,
            uncommitted: Reader::open(connection, UNCOMMITTED)?,
        })
    }
}

impl KafkaAdmin {
    pub fn open(kafka: &projector_config::Kafka) -> Result<Self, LogError> {
        let connection = Connection::open(kafka).map_err(LogError::Secret)?;
        let clients = Arc::new(Mutex::new(Arc::new(Clients::open(&connection)?)));
        Ok(Self { connection, clients, asker: Arc::new(Asker::of(kafka)), similar: Arc::default() })
    }

    /// The connection that the host's other clients use too.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The ids that this host has as a member of groups.
    pub fn member_ids(&self) -> &MemberIds {
        self.connection.member_ids()
    }

    /// The present clients. If new clients cannot be created, the previous ones stay in use.
    fn clients(&self) -> Arc<Clients> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let is_stuck = clients.committed.is_stuck();
        if is_stuck || clients.edition != self.connection.edition() {
            match Clients::open(&self.connection) {
                Ok(new) => {
                    let old = std::mem::replace(&mut *clients, Arc::new(new));
                    // Logged once, not repeatedly while the brokers are down.
                    if is_stuck && old.committed.client.context().faults.have_answered() {
                        let seconds = STUCK.as_secs();
                        tracing::warn!(
                            "no answer from the brokers for {seconds} s: the host replaces the Kafka clients that it asks with"
                        );
                    }
                    // Closing connections that do not answer may take long.
                    std::thread::spawn(move || drop(old));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot create new Kafka clients; the previous ones stay in use")
                }
            }
        }
        clients.clone()
    }

    /// Watermarks and identity of each partition, in the given order. An error if one of them is unknown.
    pub async fn inspect(&self, partitions: Vec<Partition>) -> Result<Vec<(Watermarks, Identity)>, LogError> {
        let inspected = self.inspect_each(partitions).await?;
        Ok(inspected.into_iter().collect::<Result<_, _>>()?)
    }

    /// Low and high marks and the identity of each partition, in the order asked.
    pub async fn inspect_each(&self, partitions: Vec<Partition>) -> Result<Vec<Inspected>, LogError> {
        let log = self.clone();
        blocking(move || {
            let topics: BTreeSet<Arc<str>> =
                partitions.iter().map(|partition| partition.topic.clone()).collect();
            let topics: Vec<Arc<str>> = topics.into_iter().collect();
            let identities = log.ask_identities(&topics);
            let leaders = log.leaders(&topics);
            let asked = partitions
                .iter()
                .map(|partition| (partition.clone(), log.leader_in(&leaders, partition)))
                .collect();
            let inspected = log.marks_of(asked).into_iter().map(|(partition, marks)| -> Inspected {
                let identity = match &identities {
                    Ok(known) => known.get(&*partition.topic).cloned().unwrap_or(Ok(Identity::default())),
                    Err(fault) => Err(fault.clone()),
                };
                Ok((marks?, identity?))
            });
            Ok(inspected.collect())
        })
        .await
    }

    /// The identity of each topic, by name. An error if one of them is unknown.
    pub async fn identities(&self, topics: Vec<Arc<str>>) -> Result<HashMap<String, Identity>, LogError> {
        let identities = self.identities_each(topics).await?.into_iter();
        Ok(identities.map(|(topic, identity)| Ok((topic, identity?))).collect::<Result<_, KafkaFault>>()?)
    }

    /// The identity of each topic, by name. An error only if no broker answers.
    pub async fn identities_each(
        &self,
        topics: Vec<Arc<str>>,
    ) -> Result<HashMap<String, Result<Identity, KafkaFault>>, LogError> {
        let log = self.clone();
        blocking(move || Ok(log.ask_identities(&topics)?)).await
    }

    fn ask_identities(
        &self,
        topics: &[Arc<str>],
    ) -> Result<HashMap<String, Result<Identity, KafkaFault>>, KafkaFault> {
        let topic_ids = self.topic_ids(topics)?;
        // After the topics, since the client takes the cluster's id from its last answer.
        let cluster_id = self.cluster_id_now();
        let identity = |topic_id| Identity { topic_id, cluster_id: cluster_id.clone() };
        Ok(topic_ids.into_iter().map(|(topic, topic_id)| (topic, topic_id.map(identity))).collect())
    }

    /// The physical topics of a projection: those that are named, and those that exist and match a pattern.
    pub async fn topics(&self, mapping: &TopicMapping) -> Result<Vec<Arc<str>>, LogError> {
        if !mapping.has_patterns() {
            return Ok(mapping.topics::<&str>([]));
        }
        let (log, mapping) = (self.clone(), mapping.clone());
        blocking(move || {
            let metadata = log.clients().committed.metadata(None)?;
            let existing = metadata.topics().iter().filter(|topic| topic.error().is_none());
            Ok(mapping.topics(existing.map(|topic| topic.name())))
        })
        .await
    }

    fn cluster_id_now(&self) -> Option<String> {
        let clients = self.clients();
        let client = clients.committed.client.client().native_ptr();
        // SAFETY: the client is open. rdkafka's own function for it does not give the text back, and every batch asks.
        unsafe { taken(client, native::rd_kafka_clusterid(client, PATIENCE.as_millis() as i32)) }
    }

    /// The id of the cluster behind the brokers' address. `None` if the brokers do not report one.
    pub async fn cluster_id(&self) -> Result<Option<String>, LogError> {
        let log = self.clone();
        blocking(move || {
            log.clients().committed.metadata(Some("__consumer_offsets"))?;
            Ok(log.cluster_id_now())
        })
        .await
    }

    /// The partitions of a topic with their watermarks. `None` if the topic does not exist. An error if the
    /// watermarks of one partition are unknown.
    pub async fn topic(&self, topic: Arc<str>) -> Result<Option<Vec<(Partition, Watermarks)>>, LogError> {
        let partitions = match self.topic_each(topic).await {
            Err(LogError::Fault(fault)) if fault.kind() == FailureKind::NoTopic => return Ok(None),
            partitions => partitions?.into_iter(),
        };
        let known = partitions.map(|(partition, marks)| Ok((partition, marks?)));
        Ok(Some(known.collect::<Result<_, KafkaFault>>()?))
    }

    /// The partitions of a topic, each with its watermarks or why they are unknown.
    pub async fn topic_each(
        &self,
        topic: Arc<str>,
    ) -> Result<Vec<(Partition, Result<Watermarks, KafkaFault>)>, LogError> {
        let log = self.clone();
        blocking(move || {
            let leaders = log.leaders_of(&topic)?;
            Ok(log.marks_of(leaders))
        })
        .await
    }

    /// The partitions of each topic, with or without a leader; or why they are unknown.
    pub async fn partitions(
        &self,
        topics: BTreeSet<Arc<str>>,
    ) -> Result<Vec<(Arc<str>, Result<Vec<Partition>, KafkaFault>)>, LogError> {
        let log = self.clone();
        blocking(move || {
            let topics: Vec<Arc<str>> = topics.into_iter().collect();
            let known = log.leaders(&topics).into_iter();
            let partitions = |leaders: Leaders| leaders.into_iter().map(|(partition, _)| partition).collect();
            Ok(known.map(|(topic, leaders)| (topic, leaders.map(partitions))).collect())
        })
        .await
    }

    /// The offset of the first record with this timestamp or a later one, in milliseconds since 1970.
    /// `None` if all records are older.
    pub async fn offset_at(&self, partition: Partition, time_ms: i64) -> Result<Option<i64>, LogError> {
        let log = self.clone();
        blocking(move || {
            let fault = |error: KafkaError| log.fault(Subject::Partition(partition.clone()), &error);
            let mut asked = TopicPartitionList::new();
            asked
                .add_partition_offset(&partition.topic, partition.number, Offset::Offset(time_ms))
                .map_err(LogError::Client)?;
            let found = log.clients().committed.client.offsets_for_times(asked, PATIENCE).map_err(fault)?;
            let Some(found) = found.find_partition(&partition.topic, partition.number) else {
                return Ok(None);
            };
            found.error().map_err(fault)?;
            match found.offset() {
                Offset::Offset(offset) => Ok(Some(offset)),
                _ => Ok(None),
            }
        })
        .await
    }

    /// The first record that a `read_committed` consumer gets from an offset on: its offset and its
    /// timestamp in milliseconds. `None` if there is none up to the end of the log. The log may still end
    /// at a later offset: it may hold commit markers or an open transaction.
    pub async fn first_visible(
        &self,
        partition: Partition,
        from: i64,
    ) -> Result<Option<(i64, Option<i64>)>, LogError> {
        let log = self.clone();
        blocking(move || log.first(COMMITTED, &partition, from, place)).await
    }

    /// The timestamp, in milliseconds, of the first record of an open transaction, which hides the records
    /// after it. `None` if no transaction is open, or the record has no timestamp.
    pub async fn open_transaction(&self, partition: Partition) -> Result<Option<i64>, LogError> {
        let log = self.clone();
        blocking(move || {
            let (topic, number) = (&partition.topic, partition.number);
            let clients = log.clients();
            let reader = &clients.uncommitted;
            let written = reader.client.fetch_watermarks(topic, number, PATIENCE);
            let (_, written) =
                written.map_err(|error| reader.fault(Subject::Partition(partition.clone()), &error))?;
            // Asked second: by now the stable offset has passed the first answer, unless a transaction
            // holds it back.
            let stable = log.marks(&partition)?.high;
            if stable >= written {
                return Ok(None);
            }
            let found = log.first(UNCOMMITTED, &partition, stable, place)?;
            Ok(found.and_then(|(_, timestamp_ms)| timestamp_ms))
        })
        .await
    }

    /// With `read_committed` the high mark is the last stable offset.
    fn marks(&self, partition: &Partition) -> Result<Watermarks, KafkaFault> {
        let clients = self.clients();
        let reader = &clients.committed;
        let marks = reader.client.fetch_watermarks(&partition.topic, partition.number, PATIENCE);
        let (low, high) =
            marks.map_err(|error| reader.fault(Subject::Partition(partition.clone()), &error))?;
        Ok(Watermarks { low, high })
    }

    /// The watermarks of each partition whose leader is known. Leaders are asked at the same time. A leader
    /// that does not answer in time is not asked about its other partitions.
    fn marks_of(&self, partitions: Leaders) -> Vec<(Partition, Result<Watermarks, KafkaFault>)> {
        let mut answers: Vec<(Partition, Option<Result<Watermarks, KafkaFault>>)> = Vec::new();
        let mut by_leader: BTreeMap<i32, Vec<(usize, Partition)>> = BTreeMap::new();
        for (at, (partition, leader)) in partitions.into_iter().enumerate() {
            match leader {
                Ok(leader) => {
                    by_leader.entry(leader).or_default().push((at, partition.clone()));
                    answers.push((partition, None));
                }
                Err(fault) => answers.push((partition, Some(Err(fault)))),
            }
        }
        let ask = |asked: Vec<(usize, Partition)>| {
            let mut silent: Option<RDKafkaErrorCode> = None;
            let answer = |(at, partition): (usize, Partition)| {
                let marks = match silent {
                    Some(code) => Err(self.fault_of(Subject::Partition(partition), code)),
                    None => self.marks(&partition),
                };
                if let Err(fault) = &marks
                    && is_silence(fault.code)
                {
                    silent = Some(fault.code);
                }
                (at, marks)
            };
            asked.into_iter().map(answer).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let ask = &ask;
            let asking: Vec<_> =
                by_leader.into_values().map(|asked| scope.spawn(move || ask(asked))).collect();
            for asking in asking {
                match asking.join() {
                    Ok(found) => found.into_iter().for_each(|(at, marks)| answers[at].1 = Some(marks)),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        let unasked = |partition: &Partition| {
            Err(self.fault_of(Subject::Partition(partition.clone()), RDKafkaErrorCode::Unknown))
        };
        answers
            .into_iter()
            .map(|(partition, marks)| {
                let marks = marks.unwrap_or_else(|| unasked(&partition));
                (partition, marks)
            })
            .collect()
    }

    /// The leaders of each topic's partitions. If no broker answers for one topic, the other topics are not
    /// asked about.
    fn leaders(&self, topics: &[Arc<str>]) -> HashMap<Arc<str>, Result<Leaders, KafkaFault>> {
        let mut everywhere: Option<KafkaFault> = None;
        let leaders = |topic: &Arc<str>| {
            let leaders = match &everywhere {
                Some(fault) => Err(fault.clone()),
                None => self.leaders_of(topic),
            };
            if let Err(fault) = &leaders
                && fault.is_everywhere()
            {
                everywhere = Some(fault.clone());
            }
            (topic.clone(), leaders)
        };
        topics.iter().map(leaders).collect()
    }

    fn leader_in(
        &self,
        leaders: &HashMap<Arc<str>, Result<Leaders, KafkaFault>>,
        partition: &Partition,
    ) -> Result<i32, KafkaFault> {
        let unknown =
            || self.fault_of(Subject::Partition(partition.clone()), RDKafkaErrorCode::UnknownPartition);
        match leaders.get(&partition.topic) {
            Some(Ok(known)) => {
                let found = known.iter().find(|(known, _)| known == partition);
                found.map_or_else(|| Err(unknown()), |(_, leader)| leader.clone())
            }
            Some(Err(fault)) => Err(fault.clone()),
            None => Err(unknown()),
        }
    }

    /// The partitions of a topic, from the metadata of any broker.
    fn leaders_of(&self, topic: &Arc<str>) -> Result<Leaders, KafkaFault> {
        let metadata = self.clients().committed.metadata(Some(topic))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == &**topic) else {
            return Err(self.missing(topic, RDKafkaErrorCode::UnknownTopicOrPartition));
        };
        match found.error().map(RDKafkaErrorCode::from) {
            // The answer still contains the partitions that have a leader.
            None | Some(RDKafkaErrorCode::LeaderNotAvailable) if !found.partitions().is_empty() => {}
            Some(code) => return Err(self.missing(topic, code)),
            None => return Err(self.missing(topic, RDKafkaErrorCode::UnknownTopicOrPartition)),
        }
        let partitions = found.partitions().iter().map(|partition| {
            let leader = match (partition.leader(), partition.error()) {
                (leader, _) if leader >= 0 => Ok(leader),
                (_, error) => Err(error.map_or(RDKafkaErrorCode::LeaderNotAvailable, RDKafkaErrorCode::from)),
            };
            let partition = Partition::new(topic.clone(), partition.id());
            let leader = leader.map_err(|code| self.fault_of(Subject::Partition(partition.clone()), code));
            (partition, leader)
        });
        Ok(partitions.collect())
    }

    fn fault(&self, subject: Subject, error: &KafkaError) -> KafkaFault {
        KafkaFault::new(subject, error, &self.asker)
    }

    fn fault_of(&self, subject: Subject, code: RDKafkaErrorCode) -> KafkaFault {
        KafkaFault::of_code(subject, code, &self.asker)
    }

    /// The fault of a topic that does not exist, with the most similar topic, since the name may be
    /// mistyped.
    fn missing(&self, topic: &Arc<str>, code: RDKafkaErrorCode) -> KafkaFault {
        let mut fault = self.fault_of(Subject::Topic(topic.clone()), code);
        if fault.kind() == FailureKind::NoTopic {
            fault.nearest = self.most_similar(topic);
        }
        fault
    }

    /// The existing topic that this host may see and whose name is most similar.
    fn most_similar(&self, topic: &Arc<str>) -> Option<String> {
        let known = || self.similar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, similar)) = known().get(topic)
            && at.elapsed() < SIMILAR_CHECK
        {
            return similar.clone();
        }
        let metadata = self.clients().committed.client.fetch_metadata(None, PATIENCE).ok()?;
        let names = metadata.topics().iter().map(|topic| topic.name());
        let names = names.filter(|name| !name.starts_with("__") && *name != &**topic);
        let similar = projector_model::nearest(topic, names).map(str::to_owned);
        known().insert(topic.clone(), (Instant::now(), similar.clone()));
        similar
    }

    /// Applies `take` to the first record that a consumer gets from an offset on. `None` if there is none
    /// up to the end of the log. Takes some seconds at most.
    fn first<T>(
        &self,
        isolation: &str,
        partition: &Partition,
        from: i64,
        take: impl FnOnce(&BorrowedMessage<'_>) -> T,
    ) -> Result<Option<T>, LogError> {
        let reader = Reader::open(&self.connection, isolation)?;
        let subject = || Subject::Partition(partition.clone());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(from))
            .and_then(|()| reader.client.assign(&list))
            .map_err(LogError::Client)?;
        let deadline = Instant::now() + PATIENCE * 2;
        let mut last = RDKafkaErrorCode::OperationTimedOut;
        while Instant::now() < deadline {
            match reader.client.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => return Ok(Some(take(&message))),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                Some(Err(error)) => {
                    let fault = self.fault(subject(), &error).while_reading();
                    // Only temporary errors are retried here.
                    if fault.kind() != FailureKind::Brokers {
                        return Err(fault.into());
                    }
                    last = fault.code;
                }
                None => {}
            }
        }
        Err(self.fault_of(subject(), last).into())
    }

    /// Kafka's topic ids; `None` if the broker has none. Uses the C API, since rdkafka has no
    /// `DescribeTopics`.
    fn topic_ids(
        &self,
        topics: &[Arc<str>],
    ) -> Result<HashMap<String, Result<Option<String>, KafkaFault>>, KafkaFault> {
        if topics.is_empty() {
            return Ok(HashMap::new());
        }
        // No topic has a NUL in its name.
        let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(&**topic).ok()).collect();
        let mut pointers: Vec<*const std::ffi::c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let clients = self.clients();
        let client = clients.committed.client.client().native_ptr();
        // Any broker can answer. Asking a certain broker avoids the controller, which librdkafka's embedded
        // mock broker does not have.
        let metadata = clients.committed.metadata(topics.first().map(|topic| &**topic))?;
        let broker = metadata.brokers().first().map_or(-1, |broker| broker.id());
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
            let asked = Instant::now();
            let event = native::rd_kafka_queue_poll(queue, PATIENCE.as_millis() as i32);
            clients.committed.note_topics(event.is_null().then_some(asked));
            let described = if event.is_null() {
                Err(self.fault_of(Subject::Brokers, RDKafkaErrorCode::OperationTimedOut))
            } else if native::rd_kafka_event_error(event)
                != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                let code = native::rd_kafka_event_error(event).into();
                Err(self.fault_of(Subject::Brokers, code))
            } else {
                let result = native::rd_kafka_event_DescribeTopics_result(event);
                let mut count = 0;
                let list = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
                let described = (0..count).map(|at| {
                    let (name, id) = describe(*list.add(at));
                    let topic: Arc<str> = name.as_str().into();
                    (name, id.map_err(|code| self.missing(&topic, code)))
                });
                Ok(described.collect())
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

/// The offset of a record and its timestamp in milliseconds.
fn place(message: &BorrowedMessage<'_>) -> (i64, Option<i64>) {
    (message.offset(), message.timestamp().to_millis())
}

/// # Safety
/// `topic` belongs to a result that is still alive.
unsafe fn describe(
    topic: *const native::rd_kafka_TopicDescription_t,
) -> (String, Result<Option<String>, RDKafkaErrorCode>) {
    // The zero UUID, which stands for "none".
    const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";
    // SAFETY: as the caller promises; the strings belong to the description.
    unsafe {
        let name = text(native::rd_kafka_TopicDescription_name(topic));
        let error = native::rd_kafka_TopicDescription_error(topic);
        if !error.is_null()
            && native::rd_kafka_error_code(error) != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return (name, Err(native::rd_kafka_error_code(error).into()));
        }
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        let id = (!id.is_null()).then(|| text(native::rd_kafka_Uuid_base64str(id)));
        (name, Ok(id.filter(|id| !id.is_empty() && id != NONE)))
    }
}

/// Copies a text that librdkafka allocated for the caller, and frees it. `None` if there is none, or it is
/// empty.
///
/// The client is open; `made` is null, or a C string that librdkafka allocated and that was not freed yet.
pub(super) unsafe fn taken(client: *mut native::rd_kafka_t, made: *mut std::ffi::c_char) -> Option<String> {
    if made.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    let copied = unsafe { text(made) };
    // SAFETY: as the caller promises; the text was copied.
    unsafe { native::rd_kafka_mem_free(client, made.cast()) };
    Some(copied).filter(|text| !text.is_empty())
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

/// A client that reads partitions by explicit assignment, and never joins a group.
struct Reader {
    /// Declared before the client, so that it is dropped first.
    _registered: Registered,
    client: BaseConsumer<Quiet>,
    connection: Connection,
    answers: Mutex<Answers>,
}

/// Whether a client's requests get answers.
#[derive(Default)]
struct Answers {
    /// Since when requests for metadata, and for topic ids, have had no answer.
    no_metadata: Option<Instant>,
    no_topics: Option<Instant>,
}

impl Reader {
    fn open(connection: &Connection, isolation: &str) -> Result<Self, LogError> {
        let kafka = connection.kafka();
        let context = Quiet { faults: Faults::default(), connection: connection.clone() };
        let client: BaseConsumer<Quiet> = client_config(kafka)
            .map_err(LogError::Secret)?
            .set_log_level(RDKafkaLogLevel::Info)
            // A listener of another protocol closes the connection, which librdkafka reports only as a log
            // line.
            .set("log.connection.close", "true")
            .set("isolation.level", isolation)
            .set("group.id", names::questions_group(&kafka.group_prefix))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create_with_context(context)
            .map_err(LogError::Client)?;
        let registered = connection.register(client.client());
        let (connection, answers) = (connection.clone(), Mutex::default());
        Ok(Self { _registered: registered, client, connection, answers })
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `silent_since`: when a request for topic ids was sent that had no answer.
    fn note_topics(&self, silent_since: Option<Instant>) {
        let mut answers = self.answers();
        answers.no_topics = silent_since.map(|asked| answers.no_topics.unwrap_or(asked));
    }

    fn is_stuck(&self) -> bool {
        let answers = self.answers();
        let since = [answers.no_metadata, answers.no_topics];
        since.into_iter().flatten().any(|since| since.elapsed() > STUCK)
    }

    /// Waits for an answer, but not longer than necessary to know that none will come: all brokers are
    /// down, and not only because a host name has several addresses, which are tried one after the other.
    fn metadata(&self, topic: Option<&str>) -> Result<Metadata, KafkaFault> {
        let faults = &self.client.context().faults;
        let started = Instant::now();
        let mut wait = FIRST_LOOK;
        loop {
            let left = PATIENCE.saturating_sub(started.elapsed());
            let fault = match self.client.fetch_metadata(topic, wait.min(left)) {
                Ok(metadata) => {
                    // Drops callbacks about faults that are over. Does not wait, since every batch calls
                    // this function.
                    (0..KEPT).for_each(|_| drop(self.client.poll(Duration::ZERO)));
                    faults.set(None);
                    self.answers().no_metadata = None;
                    return Ok(metadata);
                }
                Err(error) => self.fault(Subject::Brokers, &error),
            };
            let is_permanent = fault.connection.as_ref().is_some_and(|fault| fault.kind.is_permanent());
            let is_known = faults.are_all_down() && (is_permanent || started.elapsed() > ADDRESSES);
            if is_known || left <= wait {
                self.answers().no_metadata.get_or_insert(started);
                return Err(fault);
            }
            wait *= 2;
        }
    }

    /// Lets librdkafka call its queued callbacks. Polls for at least [`HEARING`]: a poll without a timeout
    /// ends at the first log line.
    fn hear(&self) {
        while self.client.poll(HEARING).is_some() {}
    }

    /// The fault of a failed request. If there is no connection, with the reason.
    fn fault(&self, subject: Subject, error: &KafkaError) -> KafkaFault {
        self.hear();
        let mut fault = KafkaFault::new(subject, error, &Asker::of(self.connection.kafka()));
        if fault.kind() == FailureKind::Brokers {
            let known = self.client.context().faults.last();
            fault.connection = known.or_else(|| self.connection.token_trouble()).map(Box::new);
        }
        fault
    }
}

/// Whether an error means that a broker does not answer, so that further requests to it are useless.
fn is_silence(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, RequestTimedOut};
    matches!(code, AllBrokersDown | BrokerTransportFailure | OperationTimedOut | RequestTimedOut)
}

/// Runs a blocking request on a thread of its own. A panic becomes an error.
async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(answer) => answer,
        Err(error) => Err(LogError::Panicked(panic_text(&*error.into_panic()))),
    }
}

/// Faults show in the results of requests, so these clients log only at level debug.
struct Quiet {
    faults: Faults,
    connection: Connection,
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, "{message}");
        if facility == "FAIL" && !is_told_as_error(level) {
            let closed = RDKafkaErrorCode::BrokerTransportFailure;
            // Without the prefix with librdkafka's thread: `[thrd:NAME]: `.
            let reason = message.split_once("]: ").map_or(message, |(_, reason)| reason);
            self.faults.note(closed, reason, self.connection.kafka());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
        if let Some(code) = error.rdkafka_error_code() {
            self.faults.note(code, reason, self.connection.kafka());
        }
    }
}

impl ConsumerContext for Quiet {}

/// Whether librdkafka also calls its error callback for a log line of this level.
fn is_told_as_error(level: RDKafkaLogLevel) -> bool {
    use RDKafkaLogLevel::{Alert, Critical, Emerg, Error};
    matches!(level, Emerg | Alert | Critical | Error)
}
