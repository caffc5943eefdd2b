//! Tracks which partitions the group has assigned and revoked, and which deliveries are still valid.
//!
//! Invariant: an event is projected only in the epoch in which it was read. A revoke ends the epochs of its
//! partitions first, and then waits for the transaction in flight, for at most [`REVOKE_TIMEOUT`], before
//! the group gives the partitions to another host.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use projector_core::batch::Delivery;
use projector_core::event::Partition;
use projector_core::topics::TopicMapping;

/// How long a revoke waits for the transaction in flight. If the transaction commits later than that, the comparison of
/// the checkpoints decides: it fails if the next owner has committed before.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Shared by the poll thread, on which rebalances happen, and the pipeline.
#[derive(Default)]
pub(super) struct Ownership {
    state: Mutex<State>,
    /// Notified when a guard is dropped.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    /// Partitions that the group has assigned to this host.
    granted: HashSet<Partition>,
    /// Partitions that are read, with the epoch of their deliveries.
    epochs: HashMap<Partition, u64>,
    last_epoch: u64,
    /// How many [`RevokeGuard`]s exist: transactions in flight.
    guards: usize,
}

impl Ownership {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a new epoch for a partition; `None` if the partition is not assigned.
    pub(super) fn begin_epoch(&self, partition: &Partition) -> Option<u64> {
        let mut state = self.lock();
        if !state.granted.contains(partition) {
            return None;
        }
        state.last_epoch += 1;
        let epoch = state.last_epoch;
        state.epochs.insert(partition.clone(), epoch);
        Some(epoch)
    }

    /// Ends the partition's epoch: its deliveries are not valid any more. The partition stays assigned.
    pub(super) fn end_epoch(&self, partition: &Partition) {
        self.lock().epochs.remove(partition);
    }

    /// Whether this epoch is the partition's present one.
    pub(super) fn is_current(&self, partition: &Partition, epoch: u64) -> bool {
        self.lock().epochs.get(partition) == Some(&epoch)
    }

    pub(super) fn granted(&self) -> Vec<Partition> {
        self.lock().granted.iter().cloned().collect()
    }

    /// Removes deliveries of epochs that are over from the batch, and makes revokes wait until the returned
    /// guard is dropped. Both happen under one lock, so no revoke comes in between.
    pub(super) fn guard_revokes(self: &Arc<Self>, batch: &mut Vec<Delivery>) -> RevokeGuard {
        let mut state = self.lock();
        batch
            .retain(|delivery| state.epochs.get(&delivery.event.position.partition) == Some(&delivery.epoch));
        state.guards += 1;
        RevokeGuard { ownership: self.clone() }
    }

    fn grant(&self, partitions: &[Partition]) {
        self.lock().granted.extend(partitions.iter().cloned());
    }

    /// Ends the partitions' epochs, then waits for the transaction in flight, for at most
    /// [`REVOKE_TIMEOUT`].
    fn revoke(&self, partitions: &[Partition]) {
        let mut state = self.lock();
        for partition in partitions {
            state.granted.remove(partition);
            state.epochs.remove(partition);
        }
        // Give up after the timeout: if this host does not answer the rebalance, the group removes it, and assigns the
        // partitions to another host anyway.
        let waited = self.idle.wait_timeout_while(state, REVOKE_TIMEOUT, |state| state.guards > 0);
        if waited.is_ok_and(|(_, result)| result.timed_out()) {
            tracing::warn!(
                "partitions were revoked while a transaction was still in flight; if their next host commits first, the transaction is rolled back"
            );
        }
    }
}

/// While this exists, a revoke waits.
pub struct RevokeGuard {
    ownership: Arc<Ownership>,
}

impl Drop for RevokeGuard {
    fn drop(&mut self) {
        self.ownership.lock().guards -= 1;
        self.ownership.idle.notify_all();
    }
}

/// A change of the assignment, for the pipeline.
pub(super) enum Rebalance {
    Granted(Vec<Partition>),
    Revoked(Vec<Partition>),
}

/// librdkafka's callbacks. They run on the poll thread, inside `poll`.
pub(super) struct GroupContext {
    pub(super) ownership: Arc<Ownership>,
    /// Rebalances that the poll thread has not processed yet.
    pub(super) rebalances: Mutex<Vec<Rebalance>>,
    /// Partitions that librdkafka reads. An assigned partition is added only when its checkpoint is known.
    pub(super) assigned: Mutex<HashSet<Partition>>,
    pub(super) group: String,
    /// The topics that the projection reads.
    pub(super) topics: TopicMapping,
}

impl GroupContext {
    /// Whether a partition belongs to a topic that the projection reads. Kafka must not assign others. If it does, they
    /// are not read.
    fn is_ours(&self, partition: &Partition) -> bool {
        let is_ours = self.topics.reads(&partition.topic);
        if !is_ours {
            tracing::error!(
                group = self.group,
                %partition,
                "the group assigned a partition of a topic that the projection does not read; the partition stays unread"
            );
        }
        is_ours
    }

    pub(super) fn assigned(&self) -> MutexGuard<'_, HashSet<Partition>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_rebalances(&self) -> Vec<Rebalance> {
        std::mem::take(&mut *self.rebalances.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.group, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Not an error: librdkafka reports each end of a partition this way.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        tracing::debug!(group = self.group, %error, reason, "Kafka client");
    }
}

/// Log lines of librdkafka: errors at level warn, the rest at level debug.
pub(super) fn log(client: &str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => {
            tracing::warn!(client, facility, "{message}");
        }
        _ => tracing::debug!(client, facility, "{message}"),
    }
}

impl ConsumerContext for GroupContext {
    /// Called by librdkafka, for cooperative rebalancing. A newly assigned partition is not read before its checkpoint
    /// is known, so nothing is assigned to librdkafka here. A revoke waits for the transaction in flight.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<Partition> = list
            .elements()
            .iter()
            .map(|element| Partition::new(element.topic(), element.partition()))
            .filter(|partition| self.is_ours(partition))
            .collect();
        let (done, rebalance) = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.ownership.grant(&partitions);
                (consumer.incremental_assign(&TopicPartitionList::new()), Rebalance::Granted(partitions))
            }
            _ => {
                self.ownership.revoke(&partitions);
                let mut assigned = self.assigned();
                let mut read = TopicPartitionList::new();
                for partition in &partitions {
                    if assigned.remove(partition) {
                        read.add_partition(&partition.topic, partition.number);
                    }
                }
                (consumer.incremental_unassign(&read), Rebalance::Revoked(partitions))
            }
        };
        if let Err(error) = done {
            tracing::warn!(group = self.group, %error, "the Kafka client refused the rebalance");
        }
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push(rebalance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use projector_core::event::{Event, Position};

    fn delivery(partition: &Partition, epoch: u64) -> Delivery {
        let position = Position { partition: partition.clone(), offset: 0 };
        Delivery {
            event: Event {
                position,
                topic: 0,
                timestamp_ms: None,
                key: None,
                value: None,
                also: Vec::new(),
                topic_name: "t".into(),
                oversize_bytes: None,
                headers: vec![],
            },
            epoch,
        }
    }

    #[test]
    fn only_the_present_epoch_of_a_granted_partition_is_valid() {
        let ownership = Arc::new(Ownership::default());
        let (a, b) = (Partition::new("t", 0), Partition::new("t", 1));
        assert_eq!(ownership.begin_epoch(&a), None);
        ownership.grant(&[a.clone(), b.clone()]);
        let old = ownership.begin_epoch(&a).unwrap();
        let other = ownership.begin_epoch(&b).unwrap();
        let new = ownership.begin_epoch(&a).unwrap();
        let mut batch = vec![delivery(&a, old), delivery(&a, new), delivery(&b, other)];
        drop(ownership.guard_revokes(&mut batch));
        assert_eq!(batch, [delivery(&a, new), delivery(&b, other)]);
        ownership.revoke(&[a]);
        drop(ownership.guard_revokes(&mut batch));
        assert_eq!(batch, [delivery(&b, other)]);
    }

    #[test]
    fn a_revoke_waits_for_the_transaction_in_flight() {
        let ownership = Arc::new(Ownership::default());
        let guard = ownership.guard_revokes(&mut Vec::new());
        let revoking = std::thread::spawn({
            let ownership = ownership.clone();
            move || ownership.revoke(&[])
        });
        assert!(!revoking.is_finished());
        drop(guard);
        revoking.join().unwrap();
    }
}
