//! A client for requests: its callbacks, and whether it still gets answers.
//!
//! librdkafka reports why a connection fails only to callbacks; a request only times out. The callbacks run when the
//! client is polled. So a failed request polls the client before it returns its fault.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use projector_model::names;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use super::{LogError, REQUEST_TIMEOUT};
use crate::client::client_config;
use crate::connection::{Connection, Registered};
use crate::connection_fault::ConnectionFaults;
use crate::kafka_fault::{ClientIdentity, KafkaFault, Subject};
use projector_core::failure::FailureKind;

/// How long to wait for the first answer before checking why there is none; then twice as long, and so on.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// How long to poll for librdkafka's callbacks after a request.
const CALLBACK_POLL: Duration = Duration::from_millis(2);

/// Most queued log lines and errors of librdkafka that are dropped after an answer.
const MOST_CALLBACKS: usize = 16;

/// Time for trying the addresses of a host name one after the other.
const ADDRESSES_TIMEOUT: Duration = Duration::from_secs(1);

/// A client without an answer for this time is replaced: its connections may be dead, while new ones would
/// work.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(15);

/// A client that reads partitions by explicit assignment, and never joins a group.
pub(super) struct Reader {
    /// Declared before the client, so that it is dropped first.
    _registered: Registered,
    pub(super) client: BaseConsumer<RequestContext>,
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
    pub(super) fn open(connection: &Connection, isolation: &str) -> Result<Self, LogError> {
        let kafka = connection.kafka();
        let context = RequestContext { faults: ConnectionFaults::default(), connection: connection.clone() };
        let client: BaseConsumer<RequestContext> = client_config(kafka)
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

    /// Records whether a request for topic ids got an answer. `unanswered_since`: when a request was sent that
    /// got none.
    pub(super) fn record_topics(&self, unanswered_since: Option<Instant>) {
        let mut answers = self.answers();
        answers.no_topics = unanswered_since.map(|sent| answers.no_topics.unwrap_or(sent));
    }

    /// Whether requests have had no answer for [`STUCK_AFTER`].
    pub(super) fn is_stuck(&self) -> bool {
        let answers = self.answers();
        let since = [answers.no_metadata, answers.no_topics];
        since.into_iter().flatten().any(|since| since.elapsed() > STUCK_AFTER)
    }

    /// Asks any broker about one topic, or about all. Waits for at most [`REQUEST_TIMEOUT`].
    ///
    /// If all brokers are down, it gives up earlier: at once if the fault is permanent; otherwise after
    /// [`ADDRESSES_TIMEOUT`], when all addresses of a host name were tried.
    pub(super) fn metadata(&self, topic: Option<&str>) -> Result<Metadata, KafkaFault> {
        let faults = &self.client.context().faults;
        let started = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            let left = REQUEST_TIMEOUT.saturating_sub(started.elapsed());
            let fault = match self.client.fetch_metadata(topic, wait.min(left)) {
                Ok(metadata) => {
                    // Drop callbacks about faults that are over. Do not wait for more: every batch calls this function.
                    (0..MOST_CALLBACKS).for_each(|_| drop(self.client.poll(Duration::ZERO)));
                    faults.set(None);
                    self.answers().no_metadata = None;
                    return Ok(metadata);
                }
                Err(error) => self.fault(Subject::Brokers, &error),
            };
            let is_permanent = fault.connection.as_ref().is_some_and(|fault| fault.kind.is_permanent());
            let is_hopeless =
                faults.are_all_down() && (is_permanent || started.elapsed() > ADDRESSES_TIMEOUT);
            if is_hopeless || left <= wait {
                self.answers().no_metadata.get_or_insert(started);
                return Err(fault);
            }
            wait *= 2;
        }
    }

    /// Lets librdkafka call its queued callbacks. Polls for at least [`CALLBACK_POLL`]: a poll without a timeout
    /// ends at the first log line.
    fn run_callbacks(&self) {
        while self.client.poll(CALLBACK_POLL).is_some() {}
    }

    /// The fault of a failed request. If there is no connection to a broker, it has the reason.
    pub(super) fn fault(&self, subject: Subject, error: &KafkaError) -> KafkaFault {
        self.run_callbacks();
        let mut fault = KafkaFault::new(subject, error, &ClientIdentity::of(self.connection.kafka()));
        if fault.kind() == FailureKind::Brokers {
            let known = self.client.context().faults.last();
            fault.connection = known.or_else(|| self.connection.token_fault()).map(Box::new);
        }
        fault
    }
}

/// Faults show in the results of requests, so these clients log only at level debug.
pub(super) struct RequestContext {
    pub(super) faults: ConnectionFaults,
    connection: Connection,
}

impl ClientContext for RequestContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, "{message}");
        if facility == "FAIL" && !has_error_callback(level) {
            let closed = RDKafkaErrorCode::BrokerTransportFailure;
            // Without the prefix with librdkafka's thread: `[thrd:NAME]: `.
            let reason = message.split_once("]: ").map_or(message, |(_, reason)| reason);
            self.faults.record(closed, reason, self.connection.kafka());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
        if let Some(code) = error.rdkafka_error_code() {
            self.faults.record(code, reason, self.connection.kafka());
        }
    }
}

impl ConsumerContext for RequestContext {}

/// Whether librdkafka also calls its error callback for a log line of this level.
fn has_error_callback(level: RDKafkaLogLevel) -> bool {
    use RDKafkaLogLevel::{Alert, Critical, Emerg, Error};
    matches!(level, Emerg | Alert | Critical | Error)
}
