//! Why a connection to a broker fails: one sentence, with what to do.
//!
//! librdkafka reports the cause only once, to callbacks, in its own words. The calls that wait for the broker only time
//! out. [`ConnectionFaults`] keeps the last cause, so that a failed call can report it.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::error::RDKafkaErrorCode;

use super::certificate;
use projector_core::failure::FailureKind;

/// What is wrong with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionFaultKind {
    /// The broker refuses the login.
    Login,
    /// The listener does not offer this mechanism.
    Mechanism,
    /// The broker's certificate is not signed by a trusted authority, or is for another host name.
    Untrusted,
    /// The broker refuses the host's certificate.
    ClientCertificate,
    /// One side uses TLS or SASL, and the other does not.
    Protocol,
    /// There is no token.
    Token,
    /// The broker does not listen or does not answer.
    Unreachable,
}

impl ConnectionFaultKind {
    /// Whether the fault lasts until a person changes a configuration, a certificate or a user.
    pub fn is_permanent(self) -> bool {
        !matches!(self, ConnectionFaultKind::Unreachable | ConnectionFaultKind::Token)
    }

    pub fn failure_kind(self) -> FailureKind {
        match self.is_permanent() {
            true => FailureKind::Login,
            false => FailureKind::Brokers,
        }
    }

    /// What an operator does about it.
    pub fn remedy(self) -> &'static str {
        match self {
            ConnectionFaultKind::Login => {
                "correct the user or its password, here ([kafka.sasl]) or at the brokers: both are case-sensitive"
            }
            ConnectionFaultKind::Mechanism => {
                "set another `mechanism` in [kafka.sasl], or connect to another listener"
            }
            ConnectionFaultKind::Untrusted => {
                "set `ca` in [kafka.tls] to the file of the authority that signed the brokers' certificates, and connect by a host name that is in their certificates"
            }
            ConnectionFaultKind::ClientCertificate => {
                "replace `certificate` and `key` in [kafka.tls] by a pair that is valid now and signed by an authority that the brokers trust"
            }
            ConnectionFaultKind::Protocol => {
                "compare [kafka.tls] and [kafka.sasl] with the listener that this address belongs to, or connect to the port of another listener"
            }
            ConnectionFaultKind::Token => {
                "check the token's file, or the token endpoint, its client id and its secret"
            }
            ConnectionFaultKind::Unreachable => {
                "check that the broker is running, and that `brokers` names the right address"
            }
        }
    }
}

/// What is wrong with a connection, and with which broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFault {
    pub kind: ConnectionFaultKind,
    pub message: String,
}

/// With the remedy.
impl fmt::Display for ConnectionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.kind.remedy())
    }
}

impl ConnectionFault {
    pub(super) fn new(kind: ConnectionFaultKind, message: String) -> Self {
        Self { kind, message }
    }

    /// From the arguments of librdkafka's error callback. `None` if they do not concern a connection.
    /// `is_known`: brokers have answered before, so the configured protocol is right.
    fn of(
        code: RDKafkaErrorCode,
        reason: &str,
        kafka: &projector_config::Kafka,
        is_known: bool,
    ) -> Option<Self> {
        let (listener, detail) = listener(reason);
        let has = |words: &str| detail.contains(words);
        let protocol = kafka.protocol();
        let is_closed = has("Disconnected");
        let fault = |kind, message: String| {
            Some(Self { kind, message: format!("the broker at {listener} {message}") })
        };
        match code {
            RDKafkaErrorCode::Authentication if has("OAUTHBEARER token") => {
                Some(Self { kind: ConnectionFaultKind::Token, message: detail.to_owned() })
            }
            RDKafkaErrorCode::Authentication if has("Request not valid in current SASL state") => fault(
                ConnectionFaultKind::Protocol,
                "does not speak SASL on this port, but [kafka.sasl] requires it".into(),
            ),
            RDKafkaErrorCode::Authentication if has("mechanism handshake failed") => {
                let offered = detail.rsplit("supported mechanisms: ").next().unwrap_or_default();
                let mechanism = kafka.mechanism().map_or("", |mechanism| mechanism.as_str());
                let offered = offered.split(" (after").next().unwrap_or_default().replace(',', ", ");
                fault(
                    ConnectionFaultKind::Mechanism,
                    format!("does not offer the SASL mechanism {mechanism}: it offers {offered}"),
                )
            }
            RDKafkaErrorCode::Authentication => {
                let mechanism = kafka.mechanism().map_or("", |mechanism| mechanism.as_str());
                let login = match kafka.username() {
                    Some(user) => format!("user {}", &**user),
                    None => "this host's token".to_owned(),
                };
                fault(ConnectionFaultKind::Login, format!("refuses {login} ({mechanism}): {}", cause(detail)))
            }
            RDKafkaErrorCode::SSL if has("certificate verify failed") || has("verify broker certificate") => {
                let reason = if has("hostname mismatch") || has("IP address mismatch") {
                    "its certificate is for another host name"
                } else if has("certificate has expired") {
                    "its certificate has expired"
                } else {
                    "its certificate is not signed by an authority that this host trusts"
                };
                fault(ConnectionFaultKind::Untrusted, format!("cannot be trusted: {reason}"))
            }
            RDKafkaErrorCode::SSL
                if has("wrong version number")
                    || has("packet length too long")
                    || has("record layer failure") =>
            {
                fault(
                    ConnectionFaultKind::Protocol,
                    "does not speak TLS on this port, but [kafka.tls] requires it".into(),
                )
            }
            // With TLS 1.3, the broker checks the host's certificate after the handshake. So a refusal looks like a
            // closed connection.
            _ if protocol.is_tls && (has("alert") || has("unexpected message")) => {
                let own = kafka.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
                let expired = own.and_then(|file| certificate::expired(Path::new(&**file)));
                let reason = match (own, expired) {
                    (Some(file), Some(day)) => format!("{} expired on {day}", &**file),
                    (Some(file), None) => format!("{} is not accepted ({})", &**file, cause(detail)),
                    (None, _) => "is missing: the broker requires one".to_owned(),
                };
                fault(
                    ConnectionFaultKind::ClientCertificate,
                    format!("refuses the connection: the client certificate {reason}"),
                )
            }
            RDKafkaErrorCode::SSL => fault(
                ConnectionFaultKind::Protocol,
                format!("and this host do not agree on TLS: {}", cause(detail)),
            ),
            RDKafkaErrorCode::BrokerTransportFailure if has("connecting to a PLAINTEXT") => fault(
                ConnectionFaultKind::Protocol,
                "does not speak TLS on this port, but [kafka.tls] requires it".into(),
            ),
            // A listener closes the connection if it cannot read the first request, or refuses the next
            // one.
            RDKafkaErrorCode::BrokerTransportFailure
                if has("in state APIVERSION_QUERY") && is_closed && !protocol.is_tls && !is_known =>
            {
                fault(
                    ConnectionFaultKind::Protocol,
                    "closes the connection at once: the port expects TLS, or is not a Kafka port".into(),
                )
            }
            RDKafkaErrorCode::BrokerTransportFailure
                if has("in state UP") && is_closed && kafka.mechanism().is_none() && !is_known =>
            {
                fault(
                    ConnectionFaultKind::Protocol,
                    "closes the connection at once: the port expects SASL".into(),
                )
            }
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
                if !listener.is_empty() =>
            {
                let detail = cause(detail);
                // `Connect to ipv4#127.0.0.1:9092 failed: Connection refused`.
                let detail = detail.split_once(" failed: ").map_or(detail, |(_, reason)| reason);
                fault(ConnectionFaultKind::Unreachable, format!("cannot be reached: {detail}"))
            }
            _ => None,
        }
    }
}

/// The address of the broker, and the cause, from librdkafka's message. Its forms, without a scheme for
/// plaintext: `sasl_ssl://host:port/bootstrap: cause (after 5ms in state AUTH_REQ)`, `host:port/1: cause`,
/// `GroupCoordinator: host:port: cause`.
fn listener(reason: &str) -> (&str, &str) {
    let Some((name, detail)) = reason.split_once(": ") else { return ("", reason) };
    if name.starts_with("GroupCoordinator") {
        return detail.split_once(": ").unwrap_or((name, detail));
    }
    let address = name.split_once("://").map_or(name, |(_, address)| address);
    match address.split_once('/') {
        Some((address, _broker)) => (address, detail),
        None => ("", reason),
    }
}

/// The cause without librdkafka's internal state.
fn cause(detail: &str) -> &str {
    let detail = detail.split(" (after ").next().unwrap_or(detail);
    detail.rsplit("authentication failure: ").next().unwrap_or(detail).trim()
}

/// The last fault of one client's connections. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct ConnectionFaults(Arc<Mutex<ConnectionState>>);

#[derive(Default)]
struct ConnectionState {
    last: Option<ConnectionFault>,
    /// Whether all brokers are down.
    all_down: bool,
    /// Whether a broker ever answered.
    have_answered: bool,
}

impl ConnectionFaults {
    pub(super) fn last(&self) -> Option<ConnectionFault> {
        self.lock().last.clone()
    }

    /// `None`: a broker answered, so there is no fault.
    pub(super) fn set(&self, last: Option<ConnectionFault>) {
        let mut state = self.lock();
        let have_answered = state.have_answered || last.is_none();
        *state = ConnectionState { last, all_down: false, have_answered };
    }

    /// Whether a broker ever answered this client.
    pub(super) fn have_answered(&self) -> bool {
        self.lock().have_answered
    }

    pub(super) fn are_all_down(&self) -> bool {
        self.lock().all_down
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an error callback of librdkafka. A temporary fault does not replace a permanent one: a second broker may
    /// be down while the first one refuses the login.
    pub(super) fn record(&self, code: RDKafkaErrorCode, reason: &str, kafka: &projector_config::Kafka) {
        let mut state = self.lock();
        if code == RDKafkaErrorCode::AllBrokersDown {
            state.all_down = true;
        }
        let Some(fault) = ConnectionFault::of(code, reason, kafka, state.have_answered) else { return };
        if fault.kind.is_permanent() || state.last.as_ref().is_none_or(|last| !last.kind.is_permanent()) {
            state.last = Some(fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each form of a broker's name in librdkafka's messages.
    #[test]
    fn a_message_is_split_into_the_brokers_address_and_the_cause() {
        for (reason, address, detail) in [
            ("sasl_ssl://b-1:9096/bootstrap: no way (after 5ms)", "b-1:9096", "no way (after 5ms)"),
            ("ssl://[::1]:9093/1: no way", "[::1]:9093", "no way"),
            ("127.0.0.1:1/bootstrap: Connect failed: no", "127.0.0.1:1", "Connect failed: no"),
            ("GroupCoordinator: b-1:9092: Disconnected", "b-1:9092", "Disconnected"),
            ("FindCoordinator response error: no", "", "FindCoordinator response error: no"),
            ("1/1 brokers are down", "", "1/1 brokers are down"),
        ] {
            assert_eq!(listener(reason), (address, detail), "{reason}");
        }
    }
}
