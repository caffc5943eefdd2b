//! What the log holds, asked by a client of its own that belongs to no group.

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
use crate::checkpoint::{Identity, Watermarks};
use crate::config::{self, TextError};
use crate::event::Partition;
use crate::failure::{FailureKind, panic_text};
use crate::member_ids::MemberIds;
use crate::topics::TopicMapping;

pub use group::GroupMember;
pub use record::Recalled;

/// How long one question to the brokers may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the first answer is waited for before the reason why there is none is looked for; then twice as
/// long, and so on.
const FIRST_LOOK: Duration = Duration::from_millis(200);

/// How long librdkafka's callbacks are given after a question.
const HEARING: Duration = Duration::from_millis(2);

/// So many log lines and errors of librdkafka are taken after an answer: it keeps them until then.
const KEPT: usize = 16;

/// How long the addresses of a host name are tried one after the other.
const ADDRESSES: Duration = Duration::from_secs(1);

/// A client that has had no answer for so long is made anew: its connections may be dead, while new ones work.
const STUCK: Duration = Duration::from_secs(15);

/// For so long the topic that is most similar to a missing one is not looked up again.
const SIMILAR_CHECK: Duration = Duration::from_secs(60);

const COMMITTED: &str = "read_committed";
const UNCOMMITTED: &str = "read_uncommitted";

/// Why the brokers could not be asked, or a consumer not be made.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the Kafka client cannot be made: {0}")]
    Client(KafkaError),
    #[error("a secret of Kafka cannot be read: {0}")]
    Secret(TextError),
    #[error("the poll thread cannot be started: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Fault(#[from] KafkaFault),
    #[error("a question to the brokers panicked: {0}")]
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

/// What is known of one partition: its marks and its topic's identity, or why they are not known.
pub type Inspected = Result<(Watermarks, Identity), KafkaFault>;

/// By the missing topic: the most similar one that exists, and when that was looked up.
type Similar = HashMap<Arc<str>, (Instant, Option<String>)>;

/// The partitions of a topic, each with its leader, or why it has none.
type Leaders = Vec<(Partition, Result<i32, KafkaFault>)>;

/// A client for questions. One serves the whole host; cheap to clone.
///
/// Where a question is about several topics or partitions, each has an answer of its own: one without a
/// leader, without a right, or that does not exist keeps nothing else unknown.
#[derive(Clone)]
pub struct KafkaAdmin {
    connection: Connection,
    clients: Arc<Mutex<Arc<Clients>>>,
    asker: Arc<Asker>,
    /// For each topic that does not exist: the most similar one that does, and when that was looked up.
    similar: Arc<Mutex<Similar>>,
}

/// Made anew when the connection's files changed, or when they get no answer for a while.
struct Clients {
    edition: u64,
    committed: Reader,
    /// Sees what open transactions have written.
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
    pub fn open(kafka: &config::Kafka) -> Result<Self, LogError> {
        let connection = Connection::open(kafka).map_err(LogError::Secret)?;
        let clients = Arc::new(Mutex::new(Arc::new(Clients::open(&connection)?)));
        Ok(Self { connection, clients, asker: Arc::new(Asker::of(kafka)), similar: Arc::default() })
    }

    /// What the host's other clients are made with.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The ids that this host has as a member of groups.
    pub fn member_ids(&self) -> &MemberIds {
        self.connection.member_ids()
    }

    /// The clients of now. Those before serve on while no new ones can be made.
    fn clients(&self) -> Arc<Clients> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let is_stuck = clients.committed.is_stuck();
        if is_stuck || clients.edition != self.connection.edition() {
            match Clients::open(&self.connection) {
                Ok(new) => {
                    let old = std::mem::replace(&mut *clients, Arc::new(new));
                    // Once, and not for as long as the brokers are gone.
                    if is_stuck && old.committed.client.context().faults.have_answered() {
                        let seconds = STUCK.as_secs();
                        tracing::warn!(
                            "the Kafka clients that ask about the log are made anew: no answer for {seconds} s"
                        );
                    }
                    // It may take its time over connections that are silent.
                    std::thread::spawn(move || drop(old));
                }
                Err(error) => tracing::warn!(%error, "the Kafka clients of before serve on"),
            }
        }
        clients.clone()
    }

    /// Low and high marks and the identity of each partition, in the order asked. An error if one of them
    /// is not known.
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

    /// The identity of each topic, by its name. An error if one of them is not known.
    pub async fn identities(&self, topics: Vec<Arc<str>>) -> Result<HashMap<String, Identity>, LogError> {
        let identities = self.identities_each(topics).await?.into_iter();
        Ok(identities.map(|(topic, identity)| Ok((topic, identity?))).collect::<Result<_, KafkaFault>>()?)
    }

    /// The identity of each topic, by its name. An error only if no broker could be asked.
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
        // After the topics: the client takes it from the last answer that it got.
        let cluster_id = self.cluster_id_now();
        let identity = |topic_id| Identity { topic_id, cluster_id: cluster_id.clone() };
        Ok(topic_ids.into_iter().map(|(topic, topic_id)| (topic, topic_id.map(identity))).collect())
    }

    /// The topics of a projection: those that are named, and all that exist and match.
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

    /// The id of the cluster behind the brokers' address. `None`: the brokers do not tell one.
    pub async fn cluster_id(&self) -> Result<Option<String>, LogError> {
        let log = self.clone();
        blocking(move || {
            log.clients().committed.metadata(Some("__consumer_offsets"))?;
            Ok(log.cluster_id_now())
        })
        .await
    }

    /// The partitions of a topic that exists, with the marks of each. `None` for one that does not exist.
    /// An error if one of them is not known.
    pub async fn topic(&self, topic: Arc<str>) -> Result<Option<Vec<(Partition, Watermarks)>>, LogError> {
        let partitions = match self.topic_each(topic).await {
            Err(LogError::Fault(fault)) if fault.kind() == FailureKind::NoTopic => return Ok(None),
            partitions => partitions?.into_iter(),
        };
        let known = partitions.map(|(partition, marks)| Ok((partition, marks?)));
        Ok(Some(known.collect::<Result<_, KafkaFault>>()?))
    }

    /// The partitions of a topic, with the marks of each, or why they are not known.
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

    /// The partitions of each topic, whether or not they have a leader; or why they are not known.
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

    /// The offset of the first record of this time or later, in milliseconds since 1970. `None`: no record
    /// is as young.
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

    /// The first record that a reader of committed events would find from an offset on: its offset
    /// and its timestamp in milliseconds. `None` if there is none up to the end of the log, which
    /// may well lie further on: behind it stand commit markers, or a transaction that is open.
    pub async fn first_visible(
        &self,
        partition: Partition,
        from: i64,
    ) -> Result<Option<(i64, Option<i64>)>, LogError> {
        let log = self.clone();
        blocking(move || log.first(COMMITTED, &partition, from, place)).await
    }

    /// The timestamp in milliseconds of the first record of a transaction that is open, and holds back
    /// what was written behind it. `None`: there is none, or it has no timestamp.
    pub async fn open_transaction(&self, partition: Partition) -> Result<Option<i64>, LogError> {
        let log = self.clone();
        blocking(move || {
            let (topic, number) = (&partition.topic, partition.number);
            let clients = log.clients();
            let reader = &clients.uncommitted;
            let written = reader.client.fetch_watermarks(topic, number, PATIENCE);
            let (_, written) =
                written.map_err(|error| reader.fault(Subject::Partition(partition.clone()), &error))?;
            // Requester after the other one: it has passed that, unless a transaction holds it back.
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

    /// The marks of each partition whose leader is known. Leaders are asked side by side; one that does not
    /// answer in time is not asked again about its other partitions.
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

    /// The leaders of each topic's partitions. Once no broker answers, the others are not asked.
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

    /// The partitions of a topic, as the metadata of any broker tells them.
    fn leaders_of(&self, topic: &Arc<str>) -> Result<Leaders, KafkaFault> {
        let metadata = self.clients().committed.metadata(Some(topic))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == &**topic) else {
            return Err(self.missing(topic, RDKafkaErrorCode::UnknownTopicOrPartition));
        };
        match found.error().map(RDKafkaErrorCode::from) {
            // The partitions that have a leader are in the answer all the same.
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

    /// Why a topic is not there; with the most similar one, if its name may be mistyped.
    fn missing(&self, topic: &Arc<str>, code: RDKafkaErrorCode) -> KafkaFault {
        let mut fault = self.fault_of(Subject::Topic(topic.clone()), code);
        if fault.kind() == FailureKind::NoTopic {
            fault.nearest = self.most_similar(topic);
        }
        fault
    }

    /// The topic that exists, and that this host may see, whose name is most like this one.
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

    /// What `take` makes of the first record from an offset on that a reader finds. `None`: there is none up
    /// to the end of the log. It takes some seconds at most.
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
                    // What does not pass in a moment is not waited for.
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

    /// Kafka's ids of topics; `None` where the broker has none. The safe interface does not reach
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
        // Any broker can answer; asking one of them spares the way to the controller, which
        // librdkafka's embedded broker does not have.
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

/// A text that librdkafka made for its caller, who gives it back. `None`: there is none, or it is empty.
///
/// # Safety
/// The client is open; `made` is null, or a C string that it made and nobody gave back.
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

/// A client that can read partitions by hand, and never joins a group.
struct Reader {
    /// Before the client, which is to be open as long as it is registered.
    _registered: Registered,
    client: BaseConsumer<Quiet>,
    connection: Connection,
    answers: Mutex<Answers>,
}

/// What came of a client's questions.
#[derive(Default)]
struct Answers {
    /// Since when there was none to questions for metadata, and to those who the topics are.
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
            // A listener of another protocol closes the connection, which is told only as a line of the log.
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

    /// `silent_since`: there was no answer who the topics are.
    fn note_topics(&self, silent_since: Option<Instant>) {
        let mut answers = self.answers();
        answers.no_topics = silent_since.map(|asked| answers.no_topics.unwrap_or(asked));
    }

    fn is_stuck(&self) -> bool {
        let answers = self.answers();
        let since = [answers.no_metadata, answers.no_topics];
        since.into_iter().flatten().any(|since| since.elapsed() > STUCK)
    }

    /// Waits for an answer, and no longer than it takes to know that there is none to come: no broker is
    /// left, and that is not because a host name has several addresses, which are tried one after the other.
    fn metadata(&self, topic: Option<&str>) -> Result<Metadata, KafkaFault> {
        let faults = &self.client.context().faults;
        let started = Instant::now();
        let mut wait = FIRST_LOOK;
        loop {
            let left = PATIENCE.saturating_sub(started.elapsed());
            let fault = match self.client.fetch_metadata(topic, wait.min(left)) {
                Ok(metadata) => {
                    // What is over by now. Nothing is waited for: every batch asks.
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

    /// Lets librdkafka tell its callbacks what it has to say, which it keeps until then. Polls for at least
    /// [`HEARING`]: a poll without patience ends at the first log line.
    fn hear(&self) {
        while self.client.poll(HEARING).is_some() {}
    }

    /// Why a question has no answer: a connection that cannot be made has its reason.
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

/// Whether an error says that a broker is silent, so that it is in vain to ask it on.
fn is_silence(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, RequestTimedOut};
    matches!(code, AllBrokersDown | BrokerTransportFailure | OperationTimedOut | RequestTimedOut)
}

/// A question blocks a thread of its own. One that panics, whatever the brokers answered, is an error.
async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(answer) => answer,
        Err(error) => Err(LogError::Panicked(panic_text(&*error.into_panic()))),
    }
}

/// Blocker shows in the answers, so these clients keep their lines to themselves.
struct Quiet {
    faults: Faults,
    connection: Connection,
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, "{message}");
        if facility == "FAIL" && !is_told_as_error(level) {
            let closed = RDKafkaErrorCode::BrokerTransportFailure;
            // Without the name of librdkafka's thread: `[thrd:NAME]: `.
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

/// Whether librdkafka tells its error callback what it logs at this level.
fn is_told_as_error(level: RDKafkaLogLevel) -> bool {
    use RDKafkaLogLevel::{Alert, Critical, Emerg, Error};
    matches!(level, Emerg | Alert | Critical | Error)
}
