//! What each Kafka error code means for an operator.
//!
//! One table: for each code, what is wrong, whether it ends by itself, and what to do. A [`KafkaFault`] combines a code
//! with its subject (a topic, a partition, a group), so that no error is shown without its subject. The host retries
//! every fault with a backoff: when the cause is gone, the projection continues without a restart.

use std::fmt;
use std::sync::Arc;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::connection_fault::ConnectionFault;
use projector_core::event::Partition;
use projector_core::failure::FailureKind;

/// The subject of a fault.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// All brokers: they did not answer, or the connection to them failed.
    Brokers,
    Topic(Arc<str>),
    Partition(Partition),
    Group(Arc<str>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Brokers => f.write_str("the brokers"),
            Subject::Topic(topic) => write!(f, "topic {topic}"),
            Subject::Partition(partition) => write!(f, "{partition}"),
            Subject::Group(group) => write!(f, "group {group}"),
        }
    }
}

/// The right that an operation of the host needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To see a topic, its partitions and its offsets.
    Describe,
    /// To fetch records, or to join a group.
    Read,
}

/// The identity of this host for the brokers. Messages about missing rights name its principal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientIdentity {
    pub brokers: String,
    /// The principal that the brokers see. Unknown if it comes from a certificate or a token.
    pub principal: Option<String>,
}

impl ClientIdentity {
    pub fn of(kafka: &projector_config::Kafka) -> Self {
        let principal = kafka.username().map(|user| format!("User:{}", &**user));
        Self { brokers: kafka.brokers.to_string(), principal }
    }
}

/// A Kafka error and its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaFault {
    pub subject: Subject,
    pub code: Code,
    /// The right that the request needs. Shown if the right is missing.
    pub right: Right,
    pub client: ClientIdentity,
    /// Why there is no connection to a broker, if known.
    pub connection: Option<Box<ConnectionFault>>,
    /// The existing topic with the most similar name, if the topic does not exist.
    pub nearest: Option<String>,
    /// Whether events of the topic are in the read model. If so, a topic that does not exist was deleted.
    pub was_read: bool,
}

impl KafkaFault {
    pub fn new(subject: Subject, error: &KafkaError, identity: &ClientIdentity) -> Self {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        Self::of_code(subject, code, identity)
    }

    pub fn of_code(subject: Subject, code: Code, identity: &ClientIdentity) -> Self {
        let right = match subject {
            Subject::Group(_) => Right::Read,
            _ => Right::Describe,
        };
        Self {
            subject,
            code,
            right,
            client: identity.clone(),
            connection: None,
            nearest: None,
            was_read: false,
        }
    }

    /// The same fault for a request that reads records.
    pub fn while_reading(self) -> Self {
        Self { right: Right::Read, ..self }
    }

    /// The same fault for a topic whose events are in the read model.
    pub fn of_topic_read_before(self) -> Self {
        Self { was_read: true, ..self }
    }

    pub fn kind(&self) -> FailureKind {
        match (&self.connection, meaning(self.code).kind) {
            (Some(fault), _) => fault.kind.failure_kind(),
            (None, FailureKind::NoTopic) if self.was_read => FailureKind::TopicDeleted,
            (None, kind) => kind,
        }
    }

    /// Whether no broker can be asked, so that other requests would fail as well.
    pub fn is_everywhere(&self) -> bool {
        self.subject == Subject::Brokers
    }

    /// What is wrong and what to do, without the subject.
    pub fn reason(&self) -> String {
        if let Some(fault) = &self.connection {
            return fault.to_string();
        }
        let Meaning { kind, what, remedy } = meaning(self.code);
        let name = name(self.code);
        match kind {
            FailureKind::NoTopic if self.was_read => {
                format!("the topic was read before, and does not exist any more; Kafka error {name}")
            }
            FailureKind::Denied => format!("{}; Kafka error {name}; {}", self.missing_right(), self.grant()),
            FailureKind::NoTopic => match &self.nearest {
                Some(nearest) => {
                    format!("{what}; Kafka error {name}; the most similar topic that exists is {nearest}")
                }
                None => format!("{what}; Kafka error {name}"),
            },
            _ if remedy.is_empty() => format!("{what}; Kafka error {name}"),
            _ => format!("{what}; Kafka error {name}; {remedy}"),
        }
    }

    fn missing_right(&self) -> String {
        let principal = self.client.principal.as_deref().unwrap_or("this host's principal");
        let right = match self.right {
            Right::Describe => "Describe",
            Right::Read => "Read",
        };
        match self.code {
            Code::ClusterAuthorizationFailed => format!("{principal} has no right to {right} the cluster"),
            _ => format!("{principal} has no right to {right} it"),
        }
    }

    /// The command that grants the missing right. Read includes Describe.
    fn grant(&self) -> String {
        let resource = match &self.subject {
            Subject::Topic(topic) | Subject::Partition(Partition { topic, .. }) => format!("--topic {topic}"),
            Subject::Group(group) => format!("--group {group}"),
            Subject::Brokers => "--cluster".to_owned(),
        };
        let operation = if self.subject == Subject::Brokers { "Describe" } else { "Read" };
        let principal = self.client.principal.as_deref().unwrap_or("User:…");
        format!(
            "grant it: kafka-acls --bootstrap-server {} --add --allow-principal {principal} --operation {operation} {resource}",
            self.client.brokers
        )
    }
}

impl fmt::Display for KafkaFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Brokers if self.connection.is_some() => f.write_str(&self.reason()),
            Subject::Brokers => write!(f, "the brokers at {}: {}", self.client.brokers, self.reason()),
            subject => write!(f, "{subject}: {}", self.reason()),
        }
    }
}

impl std::error::Error for KafkaFault {}

/// A row of the table.
struct Meaning {
    kind: FailureKind,
    what: &'static str,
    /// What to do, if the kind's advice does not say it.
    remedy: &'static str,
}

/// The table. A code that is not listed counts as temporary: the host retries, and shows the code.
fn meaning(code: Code) -> Meaning {
    use FailureKind::*;
    let (kind, what, remedy) = match code {
        // Rights.
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed => (Denied, "a right is missing", ""),

        // Names.
        Code::UnknownTopicOrPartition | Code::UnknownTopic => (NoTopic, "it does not exist", ""),
        Code::InvalidTopic => (NoTopic, "no topic can have this name", ""),
        Code::UnknownPartition => (Brokers, "the brokers do not know this partition (yet)", ""),
        Code::InvalidGroupId => {
            (Login, "the brokers do not accept this group id", "change `kafka.group-prefix`")
        }

        // Logging in.
        Code::Authentication | Code::SaslAuthenticationFailed => (
            Login,
            "the brokers refused the login",
            "correct the user name, the password or the token under `[kafka.sasl]`",
        ),
        Code::UnsupportedSASLMechanism | Code::IllegalSASLState | Code::SecurityDisabled => (
            Login,
            "the brokers' listener does not accept this SASL mechanism",
            "use the mechanism and the port that the brokers offer",
        ),
        Code::SSL => (
            Login,
            "the TLS handshake failed",
            "correct the certificates under `[kafka.tls]`, or the brokers' certificate",
        ),

        // Records.
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => (
            TooLarge,
            "the next record is larger than this client can fetch",
            "raise `receive.message.max.bytes` under `[kafka.properties]`, or skip the record with `projector skip`",
        ),
        Code::OffsetOutOfRange | Code::AutoOffsetReset => {
            (Log, "the log does not hold the next offset to read", "")
        }
        Code::InvalidMessage | Code::BadMessage | Code::BadCompression | Code::InvalidRecord => (
            Log,
            "the next records are damaged in the log, or in a form that this client cannot read",
            "let the brokers repair the replica, or skip the records with `projector skip`",
        ),

        // Versions.
        Code::UnsupportedVersion | Code::UnsupportedFeature | Code::UnsupportedForMessageFormat => {
            (Unsupported, "the brokers are too old for this request", "use brokers of Kafka 2.8 or newer")
        }
        Code::UnsupportedCompressionType | Code::NotImplemented => {
            (Unsupported, "the records are in a form that this client does not support", "")
        }

        // Groups: settings of the brokers, or of other members.
        Code::InconsistentGroupProtocol | Code::UnknownProtocol => (
            Login,
            "other members of the group use another assignment strategy: they are not hosts of Projector",
            "change `kafka.group-prefix`, or stop those members",
        ),
        Code::GroupMaxSizeReached => {
            (Login, "the group has as many members as the brokers allow", "raise `group.max.size`")
        }
        Code::InvalidSessionTimeout => (
            Login,
            "the brokers do not allow this session timeout",
            "set `session.timeout.ms` between the brokers' `group.min.session.timeout.ms` and `group.max.session.timeout.ms`",
        ),
        Code::FencedInstanceId | Code::UnreleasedInstanceId => (
            Login,
            "another member has the same `group.instance.id`",
            "give each host its own `group.instance.id`, or none",
        ),
        Code::PolicyViolation => (Login, "a policy of the brokers forbids the request", ""),

        // Temporary: leaders.
        Code::LeaderNotAvailable | Code::EligibleLeadersNotAvailable | Code::PreferredLeaderNotAvailable => {
            (Brokers, "the partition has no leader", "")
        }
        Code::NotLeaderForPartition | Code::FencedLeaderEpoch | Code::UnknownLeaderEpoch => {
            (Brokers, "the partition's leader is changing", "")
        }
        Code::ReplicaNotAvailable | Code::BrokerNotAvailable | Code::UnknownBroker => {
            (Brokers, "its broker is not available", "")
        }
        Code::OffsetNotAvailable => (Brokers, "the new leader does not know the end of the log yet", ""),
        Code::KafkaStorageError | Code::LogDirNotFound => {
            (Brokers, "the broker's disk failed", "check the broker's log directories")
        }
        Code::UnknownTopicId => (Brokers, "the topic is being recreated", ""),

        // Temporary: coordinators.
        Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::WaitingForCoordinator => (Brokers, "the group's coordinator is not available", ""),
        Code::RebalanceInProgress
        | Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::MemberIdRequired
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch
        | Code::AssignmentLost
        | Code::Fenced => (Brokers, "the group is rebalancing", ""),
        Code::PollExceeded => {
            (Brokers, "the poll thread was too slow, so the group removed this consumer", "")
        }

        // Temporary: connections.
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::NetworkException
        | Code::BrokerDestroy
        | Code::DestroyBroker => (Brokers, "no answer", ""),
        Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue | Code::MessageTimedOut => {
            (Brokers, "no answer in time", "")
        }
        Code::ThrottlingQuotaExceeded => (Brokers, "the brokers throttle this client", ""),
        _ => (Brokers, "an error that is expected to be temporary", ""),
    };
    Meaning { kind, what, remedy }
}

/// The name of a code as Kafka's documentation writes it: `LEADER_NOT_AVAILABLE`.
fn name(code: Code) -> String {
    let camel = format!("{code:?}");
    let mut name = String::new();
    let letters: Vec<char> = camel.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let begins = letter.is_uppercase()
            && at > 0
            && (letters[at - 1].is_lowercase()
                || letters.get(at + 1).is_some_and(|next| next.is_lowercase()));
        if begins {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> ClientIdentity {
        ClientIdentity { brokers: "b:9092".into(), principal: Some("User:projector".into()) }
    }

    #[test]
    fn codes_have_kafkas_names() {
        assert_eq!(name(Code::LeaderNotAvailable), "LEADER_NOT_AVAILABLE");
        assert_eq!(name(Code::UnknownTopicOrPartition), "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(name(Code::UnsupportedSASLMechanism), "UNSUPPORTED_SASL_MECHANISM");
        assert_eq!(name(Code::SSL), "SSL");
    }

    #[test]
    fn a_fault_names_its_object_and_its_code() {
        let partition = Subject::Partition(Partition::new("orders", 3));
        let fault = KafkaFault::of_code(partition, Code::LeaderNotAvailable, &identity());
        assert_eq!(
            fault.to_string(),
            "orders/3: the partition has no leader; Kafka error LEADER_NOT_AVAILABLE"
        );
        assert_eq!(fault.kind(), FailureKind::Brokers);
    }

    #[test]
    fn a_missing_right_is_shown_with_the_principal_and_the_command_that_grants_it() {
        let topic = Subject::Topic("orders".into());
        let fault = KafkaFault::of_code(topic, Code::TopicAuthorizationFailed, &identity());
        assert_eq!(fault.kind(), FailureKind::Denied);
        assert_eq!(
            fault.to_string(),
            "topic orders: User:projector has no right to Describe it; Kafka error TOPIC_AUTHORIZATION_FAILED; grant it: kafka-acls --bootstrap-server b:9092 --add --allow-principal User:projector --operation Read --topic orders"
        );
        assert!(fault.while_reading().to_string().contains("no right to Read it"));
        let group = Subject::Group("projector.a".into());
        let fault = KafkaFault::of_code(group, Code::GroupAuthorizationFailed, &identity());
        assert!(fault.to_string().contains("no right to Read it"), "{fault}");
        assert!(fault.to_string().ends_with("--operation Read --group projector.a"), "{fault}");
    }

    #[test]
    fn a_topic_that_does_not_exist_is_shown_with_the_most_similar_one() {
        let topic = Subject::Topic("ordres".into());
        let mut fault = KafkaFault::of_code(topic, Code::UnknownTopicOrPartition, &identity());
        fault.nearest = Some("orders".into());
        let text = fault.to_string();
        assert!(text.starts_with("topic ordres: it does not exist;"), "{text}");
        assert!(text.ends_with("the most similar topic that exists is orders"), "{text}");
    }

    /// Which faults end by themselves, and which ones need a person.
    #[test]
    fn permanent_faults_do_not_count_as_temporary() {
        for (code, kind) in [
            (Code::GroupAuthorizationFailed, FailureKind::Denied),
            (Code::ClusterAuthorizationFailed, FailureKind::Denied),
            (Code::UnknownTopicOrPartition, FailureKind::NoTopic),
            (Code::SaslAuthenticationFailed, FailureKind::Login),
            (Code::SSL, FailureKind::Login),
            (Code::MessageSizeTooLarge, FailureKind::TooLarge),
            (Code::OffsetOutOfRange, FailureKind::Log),
            (Code::UnsupportedVersion, FailureKind::Unsupported),
            (Code::NotCoordinator, FailureKind::Brokers),
            (Code::AllBrokersDown, FailureKind::Brokers),
        ] {
            assert_eq!(meaning(code).kind, kind, "{code:?}");
        }
    }
}
