//! What the brokers know about topics: ids, partitions with their leaders, and watermarks.
//!
//! Each topic and partition has a result of its own, so that a fault of one does not hide the others.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use projector_core::checkpoint::Watermarks;
use projector_core::event::Partition;
use projector_core::failure::FailureKind;
use rdkafka::bindings as native;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{KafkaAdmin, REQUEST_TIMEOUT};
use crate::c_text;
use crate::kafka_fault::{KafkaFault, Subject};

/// Time for which the topic most similar to a missing one is cached.
const SIMILAR_CACHE: Duration = Duration::from_secs(60);

/// The partitions of a topic, each with its leader, or why it has none.
pub(super) type Leaders = Vec<(Partition, Result<i32, KafkaFault>)>;

impl KafkaAdmin {
    /// The watermarks of a partition. The high watermark is the last stable offset, since the client reads
    /// `read_committed`.
    pub(super) fn watermarks(&self, partition: &Partition) -> Result<Watermarks, KafkaFault> {
        let clients = self.clients();
        let reader = &clients.committed;
        let found = reader.client.fetch_watermarks(&partition.topic, partition.number, REQUEST_TIMEOUT);
        let (low, high) =
            found.map_err(|error| reader.fault(Subject::Partition(partition.clone()), &error))?;
        Ok(Watermarks { low, high })
    }

    /// The watermarks of each partition whose leader is known. Leaders are asked at the same time. A leader
    /// that does not answer in time is not asked about its other partitions.
    pub(super) fn watermarks_of(
        &self,
        partitions: Leaders,
    ) -> Vec<(Partition, Result<Watermarks, KafkaFault>)> {
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
        let ask_leader = |partitions: Vec<(usize, Partition)>| {
            // After a timeout, the leader's other partitions get the same error without a request.
            let mut unanswered: Option<RDKafkaErrorCode> = None;
            let answer = |(at, partition): (usize, Partition)| {
                let watermarks = match unanswered {
                    Some(code) => Err(self.fault_of(Subject::Partition(partition), code)),
                    None => self.watermarks(&partition),
                };
                if let Err(fault) = &watermarks
                    && is_no_answer(fault.code)
                {
                    unanswered = Some(fault.code);
                }
                (at, watermarks)
            };
            partitions.into_iter().map(answer).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let ask_leader = &ask_leader;
            // A thread for each leader: a leader that does not answer must not delay the others.
            let partitions_by_leader = by_leader.into_values();
            let requests: Vec<_> =
                partitions_by_leader.map(|partitions| scope.spawn(move || ask_leader(partitions))).collect();
            for request in requests {
                match request.join() {
                    Ok(found) => found.into_iter().for_each(|(at, known)| answers[at].1 = Some(known)),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        let not_asked = |partition: &Partition| {
            Err(self.fault_of(Subject::Partition(partition.clone()), RDKafkaErrorCode::Unknown))
        };
        answers
            .into_iter()
            .map(|(partition, known)| {
                let known = known.unwrap_or_else(|| not_asked(&partition));
                (partition, known)
            })
            .collect()
    }

    /// The leaders of each topic's partitions. If no broker answers for one topic, the other topics are not
    /// asked about.
    pub(super) fn leaders(&self, topics: &[Arc<str>]) -> HashMap<Arc<str>, Result<Leaders, KafkaFault>> {
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

    pub(super) fn leader_in(
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
    pub(super) fn leaders_of(&self, topic: &Arc<str>) -> Result<Leaders, KafkaFault> {
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

    pub(super) fn fault(&self, subject: Subject, error: &KafkaError) -> KafkaFault {
        KafkaFault::new(subject, error, &self.identity)
    }

    pub(super) fn fault_of(&self, subject: Subject, code: RDKafkaErrorCode) -> KafkaFault {
        KafkaFault::of_code(subject, code, &self.identity)
    }

    /// The fault of a topic that does not exist, with the most similar topic, since the name may be
    /// mistyped.
    pub(super) fn missing(&self, topic: &Arc<str>, code: RDKafkaErrorCode) -> KafkaFault {
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
            && at.elapsed() < SIMILAR_CACHE
        {
            return similar.clone();
        }
        let metadata = self.clients().committed.client.fetch_metadata(None, REQUEST_TIMEOUT).ok()?;
        let names = metadata.topics().iter().map(|topic| topic.name());
        let names = names.filter(|name| !name.starts_with("__") && *name != &**topic);
        let similar = projector_model::nearest(topic, names).map(str::to_owned);
        known().insert(topic.clone(), (Instant::now(), similar.clone()));
        similar
    }

    /// Kafka's topic ids; `None` if the broker has none. Uses the C API, since rdkafka has no
    /// `DescribeTopics`.
    pub(super) fn topic_ids(
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
            let sent = Instant::now();
            let event = native::rd_kafka_queue_poll(queue, REQUEST_TIMEOUT.as_millis() as i32);
            clients.committed.record_topics(event.is_null().then_some(sent));
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

/// Whether an error means that a broker does not answer, so that further requests to it are useless.
fn is_no_answer(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, RequestTimedOut};
    matches!(code, AllBrokersDown | BrokerTransportFailure | OperationTimedOut | RequestTimedOut)
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
        let name = c_text::copy(native::rd_kafka_TopicDescription_name(topic));
        let error = native::rd_kafka_TopicDescription_error(topic);
        if !error.is_null()
            && native::rd_kafka_error_code(error) != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return (name, Err(native::rd_kafka_error_code(error).into()));
        }
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        let id = (!id.is_null()).then(|| c_text::copy(native::rd_kafka_Uuid_base64str(id)));
        (name, Ok(id.filter(|id| !id.is_empty() && id != NONE)))
    }
}
