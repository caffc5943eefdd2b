//! Turns an error that a consumer reports into a message to the pipeline, or into a log line.
//!
//! librdkafka reports a cause once, and then retries without further reports. So the last cause is remembered, and a
//! message is sent when it changes.

use std::time::{Duration, Instant};

use projector_core::failure::FailureKind;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::Incoming;
use super::kafka_fault::{ClientIdentity, KafkaFault, Subject};
use super::outbox::Outbox;

/// A temporary error is logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

pub(super) struct ClientErrors {
    group: String,
    /// This host's identity for the brokers, for messages about missing rights.
    identity: ClientIdentity,
    /// Why the group cannot be joined.
    group_fault: Option<RDKafkaErrorCode>,
    last_logged: Option<Instant>,
}

impl ClientErrors {
    pub(super) fn new(group: &str, identity: ClientIdentity) -> Self {
        Self { group: group.to_owned(), identity, group_fault: None, last_logged: None }
    }

    /// Whether the group does not accept this host.
    pub(super) fn has_group_fault(&self) -> bool {
        self.group_fault.is_some()
    }

    /// Reports why the group does not accept this host, when that changes. `None`: the group accepts it.
    pub(super) fn set_group_fault(&mut self, code: Option<RDKafkaErrorCode>, outbox: &mut Outbox) {
        if std::mem::replace(&mut self.group_fault, code) == code {
            return;
        }
        let subject = Subject::Group(self.group.as_str().into());
        let fault = code.map(|code| KafkaFault::of_code(subject.clone(), code, &self.identity));
        outbox.push(Incoming::Fault { subject, fault });
    }

    /// The fault of a partition that cannot be fetched.
    pub(super) fn fetch_fault(&self, subject: Subject, code: RDKafkaErrorCode) -> KafkaFault {
        KafkaFault::of_code(subject, code, &self.identity).while_reading()
    }

    /// Handles an error that concerns the whole consumer.
    pub(super) fn report(&mut self, error: &KafkaError, outbox: &mut Outbox) {
        match error {
            KafkaError::MessageConsumptionFatal(_) => outbox.push_failed(error.to_string()),
            KafkaError::MessageConsumption(code) if is_out_of_range(*code) => outbox.push(Incoming::Recheck),
            // librdkafka does not report which topic. [`topic_watch`](super::topic_watch) checks each topic.
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::TopicAuthorizationFailed,
            ) => tracing::debug!(%error, "a topic is not available"),
            KafkaError::MessageConsumption(code) if is_group_fault(*code) => {
                self.set_group_fault(Some(*code), outbox)
            }
            // All other errors are temporary: librdkafka retries by itself.
            _ if self.last_logged.is_none_or(|last| last.elapsed() > LOG_INTERVAL) => {
                self.last_logged = Some(Instant::now());
                tracing::warn!(group = self.group, %error, "Kafka error; retrying");
            }
            _ => {}
        }
    }
}

/// Whether the log does not hold the next offset any more: checkpoint and log must be compared again.
pub(super) fn is_out_of_range(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
}

/// Whether the group does not accept this host, and a person must correct the cause.
fn is_group_fault(code: RDKafkaErrorCode) -> bool {
    let subject = Subject::Group(Default::default());
    KafkaFault::of_code(subject, code, &ClientIdentity::default()).kind() != FailureKind::Brokers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(errors: &mut ClientErrors, error: KafkaError) -> Option<Incoming> {
        let (channel, mut received) = tokio::sync::mpsc::channel(1);
        let mut outbox = Outbox::new(channel);
        errors.report(&error, &mut outbox);
        assert!(outbox.flush());
        received.try_recv().ok()
    }

    #[test]
    fn each_error_becomes_its_message() {
        let mut errors = ClientErrors::new("a-group", ClientIdentity::default());
        let consumption = KafkaError::MessageConsumption;
        let failed = reported(&mut errors, KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::Fatal));
        assert!(matches!(failed, Some(Incoming::Failed(_))));
        let recheck = reported(&mut errors, consumption(RDKafkaErrorCode::AutoOffsetReset));
        assert!(matches!(recheck, Some(Incoming::Recheck)));
        for quiet in [RDKafkaErrorCode::UnknownTopicOrPartition, RDKafkaErrorCode::BrokerTransportFailure] {
            assert!(reported(&mut errors, consumption(quiet)).is_none(), "{quiet:?}");
        }
        assert!(!errors.has_group_fault());
        let denied = || consumption(RDKafkaErrorCode::GroupAuthorizationFailed);
        let fault = reported(&mut errors, denied());
        assert!(matches!(
            fault,
            Some(Incoming::Fault { subject: Subject::Group(group), fault: Some(_) }) if &*group == "a-group"
        ));
        assert!(reported(&mut errors, denied()).is_none(), "a fault is reported once");
        assert!(errors.has_group_fault());
    }
}
