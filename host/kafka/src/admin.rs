//! Asks the brokers about topics, offsets, records and groups, with clients that belong to no group.
//!
//! Each request runs on a thread for blocking work, and has a timeout. The clients are shared by the whole
//! host, and replaced when they get no answers for a while or when the connection's files change.
//!
//! Invariant: these clients commit no offsets and join no group.

mod group;
mod reader;
mod record;
mod times;
mod topics;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use projector_core::checkpoint::{Identity, Watermarks};
use projector_core::event::Partition;
use projector_core::failure::{FailureKind, panic_text};
use projector_core::member_ids::MemberIds;
use projector_core::topics::TopicMapping;
use rdkafka::bindings as native;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::c_text;
use super::connection::Connection;
use super::kafka_fault::{ClientIdentity, KafkaFault, Subject};
use super::log_error::LogError;
use reader::{Reader, STUCK_AFTER};
use topics::Leaders;

pub use group::GroupMember;
pub use record::Recalled;

/// How long one request to the brokers may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

const COMMITTED: &str = "read_committed";
const UNCOMMITTED: &str = "read_uncommitted";

/// A partition's watermarks and its topic's identity, or why they are unknown.
pub type Inspected = Result<(Watermarks, Identity), KafkaFault>;

/// For a topic that does not exist: the topic with the most similar name, and when it was looked up.
type Similar = HashMap<Arc<str>, (Instant, Option<String>)>;

/// The client for requests to the brokers. One serves the whole host. Cheap to clone.
///
/// If a request concerns several topics or partitions, each has a result of its own: a partition without a
/// leader, a missing right or a missing topic does not affect the others.
#[derive(Clone)]
pub struct KafkaAdmin {
    connection: Connection,
    clients: Arc<Mutex<Arc<Clients>>>,
    identity: Arc<ClientIdentity>,
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
        Ok(Self {
            connection,
            clients,
            identity: Arc::new(ClientIdentity::of(kafka)),
            similar: Arc::default(),
        })
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
                    // Logged only if the old client ever got an answer: while the brokers are down, clients are
                    // replaced again and again.
                    if is_stuck && old.committed.client.context().faults.have_answered() {
                        let seconds = STUCK_AFTER.as_secs();
                        tracing::warn!(
                            "the brokers have not answered for {seconds} s: the host creates new Kafka clients for its requests"
                        );
                    }
                    // Closing a client whose brokers do not answer may take long, so another thread does it.
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

    /// Watermarks and identity of each partition, in the given order, or why they are unknown.
    pub async fn inspect_each(&self, partitions: Vec<Partition>) -> Result<Vec<Inspected>, LogError> {
        let admin = self.clone();
        blocking(move || {
            let topics: BTreeSet<Arc<str>> =
                partitions.iter().map(|partition| partition.topic.clone()).collect();
            let topics: Vec<Arc<str>> = topics.into_iter().collect();
            let identities = admin.ask_identities(&topics);
            let leaders = admin.leaders(&topics);
            let with_leaders = partitions
                .iter()
                .map(|partition| (partition.clone(), admin.leader_in(&leaders, partition)))
                .collect();
            let inspected =
                admin.watermarks_of(with_leaders).into_iter().map(|(partition, watermarks)| -> Inspected {
                    let identity = match &identities {
                        Ok(known) => known.get(&*partition.topic).cloned().unwrap_or(Ok(Identity::default())),
                        Err(fault) => Err(fault.clone()),
                    };
                    Ok((watermarks?, identity?))
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
        let admin = self.clone();
        blocking(move || Ok(admin.ask_identities(&topics)?)).await
    }

    fn ask_identities(
        &self,
        topics: &[Arc<str>],
    ) -> Result<HashMap<String, Result<Identity, KafkaFault>>, KafkaFault> {
        let topic_ids = self.topic_ids(topics)?;
        // Read after the request for the topics: the client takes the cluster's id from the last answer of a broker.
        let cluster_id = self.cluster_id_now();
        let identity = |topic_id| Identity { topic_id, cluster_id: cluster_id.clone() };
        Ok(topic_ids.into_iter().map(|(topic, topic_id)| (topic, topic_id.map(identity))).collect())
    }

    /// The physical topics of a projection: those that are named, and those that exist and match a pattern.
    pub async fn topics(&self, mapping: &TopicMapping) -> Result<Vec<Arc<str>>, LogError> {
        if !mapping.has_patterns() {
            return Ok(mapping.topics::<&str>([]));
        }
        let (admin, mapping) = (self.clone(), mapping.clone());
        blocking(move || {
            let metadata = admin.clients().committed.metadata(None)?;
            let existing = metadata.topics().iter().filter(|topic| topic.error().is_none());
            Ok(mapping.topics(existing.map(|topic| topic.name())))
        })
        .await
    }

    fn cluster_id_now(&self) -> Option<String> {
        let clients = self.clients();
        let client = clients.committed.client.client().native_ptr();
        // SAFETY: the client is open. rdkafka's own function for it does not give the text back, and every batch asks.
        unsafe {
            c_text::take(client, native::rd_kafka_clusterid(client, REQUEST_TIMEOUT.as_millis() as i32))
        }
    }

    /// The id of the cluster behind the brokers' address. `None` if the brokers do not report one.
    pub async fn cluster_id(&self) -> Result<Option<String>, LogError> {
        let admin = self.clone();
        blocking(move || {
            admin.clients().committed.metadata(Some("__consumer_offsets"))?;
            Ok(admin.cluster_id_now())
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
        let known = partitions.map(|(partition, watermarks)| Ok((partition, watermarks?)));
        Ok(Some(known.collect::<Result<_, KafkaFault>>()?))
    }

    /// The partitions of a topic, each with its watermarks or why they are unknown.
    pub async fn topic_each(
        &self,
        topic: Arc<str>,
    ) -> Result<Vec<(Partition, Result<Watermarks, KafkaFault>)>, LogError> {
        let admin = self.clone();
        blocking(move || {
            let leaders = admin.leaders_of(&topic)?;
            Ok(admin.watermarks_of(leaders))
        })
        .await
    }

    /// The partitions of each topic, with or without a leader; or why they are unknown.
    pub async fn partitions(
        &self,
        topics: BTreeSet<Arc<str>>,
    ) -> Result<Vec<(Arc<str>, Result<Vec<Partition>, KafkaFault>)>, LogError> {
        let admin = self.clone();
        blocking(move || {
            let topics: Vec<Arc<str>> = topics.into_iter().collect();
            let known = admin.leaders(&topics).into_iter();
            let partitions = |leaders: Leaders| leaders.into_iter().map(|(partition, _)| partition).collect();
            Ok(known.map(|(topic, leaders)| (topic, leaders.map(partitions))).collect())
        })
        .await
    }

    /// The offset of the first record with this timestamp or a later one, in milliseconds since 1970.
    /// `None` if all records are older.
    pub async fn offset_at(&self, partition: Partition, time_ms: i64) -> Result<Option<i64>, LogError> {
        let admin = self.clone();
        blocking(move || {
            let fault = |error: KafkaError| admin.fault(Subject::Partition(partition.clone()), &error);
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(time_ms))
                .map_err(LogError::Client)?;
            let found =
                admin.clients().committed.client.offsets_for_times(list, REQUEST_TIMEOUT).map_err(fault)?;
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
        let admin = self.clone();
        blocking(move || admin.first(COMMITTED, &partition, from, place)).await
    }

    /// The timestamp, in milliseconds, of the first record of an open transaction, which hides the records
    /// after it. `None` if no transaction is open, or the record has no timestamp.
    pub async fn open_transaction(&self, partition: Partition) -> Result<Option<i64>, LogError> {
        let admin = self.clone();
        blocking(move || {
            let (topic, number) = (&partition.topic, partition.number);
            let clients = admin.clients();
            let reader = &clients.uncommitted;
            let watermarks = reader.client.fetch_watermarks(topic, number, REQUEST_TIMEOUT);
            let (_, written) =
                watermarks.map_err(|error| reader.fault(Subject::Partition(partition.clone()), &error))?;
            // The last stable offset is requested after the end of the log. So it is at least as high as this end,
            // unless an open transaction holds it back.
            let last_stable = admin.watermarks(&partition)?.high;
            if last_stable >= written {
                return Ok(None);
            }
            let found = admin.first(UNCOMMITTED, &partition, last_stable, place)?;
            Ok(found.and_then(|(_, timestamp_ms)| timestamp_ms))
        })
        .await
    }

    /// Applies `take` to the first record that a consumer gets from an offset on. `None` if there is none up to the end
    /// of the log. Gives up after two times [`REQUEST_TIMEOUT`].
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
        // Assigning and fetching take a request each.
        let deadline = Instant::now() + REQUEST_TIMEOUT * 2;
        let mut last_error = RDKafkaErrorCode::OperationTimedOut;
        while Instant::now() < deadline {
            match reader.client.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => return Ok(Some(take(&message))),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                Some(Err(error)) => {
                    let fault = self.fault(subject(), &error).while_reading();
                    // Only temporary errors are retried.
                    if fault.kind() != FailureKind::Brokers {
                        return Err(fault.into());
                    }
                    last_error = fault.code;
                }
                None => {}
            }
        }
        Err(self.fault_of(subject(), last_error).into())
    }
}

/// The offset of a record and its timestamp in milliseconds.
fn place(message: &BorrowedMessage<'_>) -> (i64, Option<i64>) {
    (message.offset(), message.timestamp().to_millis())
}

/// Runs a blocking request on a thread of its own. A panic becomes an error.
async fn blocking<T: Send + 'static>(
    request: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(request).await {
        Ok(answer) => answer,
        Err(error) => Err(LogError::Panicked(panic_text(&*error.into_panic()))),
    }
}
