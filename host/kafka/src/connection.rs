//! The connection that all Kafka clients of the host share: the configuration, and secrets that change
//! while the host runs.
//!
//! A thread checks the files of secrets every second. A new user, password or token is passed to the open clients
//! ([`Registered`]), which use it for their next connection.
//!
//! Other files (certificates, keys, the list of brokers) are read only when a client is created. If they change, the
//! [edition](Connection::edition) increases, and the owner of a client of an older edition replaces the client. New
//! files are used only after a test client could be created with them: certificate and key are seldom replaced at the
//! same moment.
//!
//! The thread also fetches tokens. librdkafka's clients would do so only while they are polled, and most of them are
//! not.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::bindings as native;
use rdkafka::client::Client;
use sha2::{Digest, Sha256};

use super::connection_fault::{ConnectionFault, ConnectionFaultKind, ConnectionFaults};
use super::oauth::{self, Token};
use super::verify;
use projector_config::{SaslMechanism, TextError};
use projector_core::member_ids::MemberIds;

/// How often the files of secrets are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A member may still be in its group for this time after its session timeout, if the brokers did not receive its
/// request to leave.
const LEAVE_GRACE: Duration = Duration::from_secs(30);
/// The same problem is logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection(Arc<Shared>);

struct Shared {
    kafka: projector_config::Kafka,
    clients: Mutex<Clients>,
    edition: AtomicU64,
    /// Why there is no token, if there is none.
    token_fault: ConnectionFaults,
    member_ids: MemberIds,
}

#[derive(Default)]
struct Clients {
    /// By number.
    open: BTreeMap<u64, NativeClient>,
    last: u64,
    /// For clients that are opened later.
    login: Option<(String, String)>,
    token: Option<Token>,
}

/// A client; it stays open while it is registered.
struct NativeClient(*mut native::rd_kafka_t);

// SAFETY: librdkafka's clients are thread-safe, and this one is open while it is registered.
unsafe impl Send for NativeClient {}

/// While this exists, the client gets new secrets. Drop it before the client.
pub(super) struct Registered {
    connection: Connection,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connection.clients().open.remove(&self.number);
    }
}

impl Connection {
    /// Reads all secrets, and starts the thread that checks them.
    pub(super) fn open(kafka: &projector_config::Kafka) -> Result<Self, TextError> {
        let secrets = Secrets::read(kafka)?;
        let connection = Self(Arc::new(Shared {
            kafka: kafka.clone(),
            clients: Mutex::default(),
            edition: AtomicU64::new(0),
            token_fault: ConnectionFaults::default(),
            member_ids: MemberIds::new(kafka.session_timeout() + LEAVE_GRACE),
        }));
        {
            let mut clients = connection.clients();
            clients.login = secrets.login.clone();
            clients.token = secrets.token.as_deref().map(Token::given);
        }
        if secrets.may_change(kafka) {
            let shared = Arc::downgrade(&connection.0);
            // If the thread cannot be started, the host works on with the present secrets, and does not read new ones.
            let started = std::thread::Builder::new()
                .name("kafka-secrets".into())
                .spawn(move || SecretsWatch::new(shared, secrets).run());
            if let Err(error) = started {
                tracing::error!(%error, "cannot start the thread that reads changed Kafka secrets: the host uses the present ones until it restarts");
            }
        }
        Ok(connection)
    }

    pub(super) fn kafka(&self) -> &projector_config::Kafka {
        &self.0.kafka
    }

    /// The ids that this host has as a member of groups.
    pub(super) fn member_ids(&self) -> &MemberIds {
        &self.0.member_ids
    }

    /// A number that increases when clients must be replaced.
    pub(super) fn edition(&self) -> u64 {
        self.0.edition.load(Ordering::Acquire)
    }

    /// Why there is no token, if there is none.
    pub(super) fn token_fault(&self) -> Option<ConnectionFault> {
        self.0.token_fault.last()
    }

    /// Gives a client the present secrets and later ones.
    pub(super) fn register<C: ClientContext>(&self, client: &Client<C>) -> Registered {
        let client = NativeClient(client.native_ptr());
        let mut clients = self.clients();
        if let Some(login) = &clients.login {
            client.set_login(login);
        }
        if let Some(token) = &clients.token {
            self.record_token(client.set_token(token, &self.0.kafka));
        }
        clients.last += 1;
        let number = clients.last;
        clients.open.insert(number, client);
        Registered { connection: self.clone(), number }
    }

    fn set_login(&self, login: (String, String)) {
        let mut clients = self.clients();
        clients.open.values().for_each(|client| client.set_login(&login));
        clients.login = Some(login);
    }

    fn set_token(&self, token: Token) {
        let mut clients = self.clients();
        for client in clients.open.values() {
            self.record_token(client.set_token(&token, &self.0.kafka));
        }
        clients.token = Some(token);
    }

    fn record_token(&self, result: Result<(), String>) {
        let fault = result.err().map(|reason| ConnectionFault::new(ConnectionFaultKind::Token, reason));
        self.0.token_fault.set(fault);
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.0.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NativeClient {
    fn set_login(&self, (user, password): &(String, String)) {
        let (Ok(user), Ok(password)) = (CString::new(&**user), CString::new(&**password)) else { return };
        // SAFETY: the client is open; the strings outlive the call, which copies them.
        unsafe {
            let error = native::rd_kafka_sasl_set_credentials(self.0, user.as_ptr(), password.as_ptr());
            if !error.is_null() {
                native::rd_kafka_error_destroy(error);
            }
        }
    }

    fn set_token(&self, token: &Token, kafka: &projector_config::Kafka) -> Result<(), String> {
        let c_string = |text: &str| CString::new(text).map_err(|_| "the token holds a NUL".to_owned());
        let value = c_string(&token.value)?;
        let extensions = kafka.sasl.iter().flat_map(|sasl| &sasl.extensions);
        let extensions = extensions.flat_map(|(name, value)| [c_string(name), c_string(value)]);
        let extensions: Vec<CString> = extensions.collect::<Result<_, _>>()?;
        let mut pointers: Vec<_> = extensions.iter().map(|text| text.as_ptr()).collect();
        let mut reason = [0; 512];
        // SAFETY: the client is open; everything outlives the call, which copies what it keeps.
        let error = unsafe {
            native::rd_kafka_oauthbearer_set_token(
                self.0,
                value.as_ptr(),
                token.expires_ms,
                c"projector".as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        if error == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Ok(());
        }
        if token.has_expired() {
            return Err("the token of [kafka.sasl] has expired".to_owned());
        }
        // SAFETY: librdkafka ends what it writes with a NUL.
        let reason = unsafe { CStr::from_ptr(reason.as_ptr()) }.to_string_lossy();
        Err(format!("the token of [kafka.sasl] cannot be used: {}", reason.replace(&token.value, "…")))
    }
}

/// All secrets, and what else a client reads when it is created, at one time.
struct Secrets {
    login: Option<(String, String)>,
    token: Option<String>,
    /// A digest of everything that a client reads when it is created.
    files: [u8; 32],
}

impl Secrets {
    fn read(kafka: &projector_config::Kafka) -> Result<Self, TextError> {
        let login = match (kafka.username(), kafka.password()) {
            (Some(user), Some(password)) => Some((user.current()?, password.current()?)),
            _ => None,
        };
        let token = kafka.sasl.as_ref().and_then(|sasl| sasl.token.as_ref());
        let token = token.map(|token| token.current()).transpose()?;
        let mut files = Sha256::new();
        let of_tls = kafka.tls.iter().flat_map(|tls| [&tls.ca, &tls.certificate, &tls.key]).flatten();
        for file in of_tls {
            // A file that cannot be read now counts as empty.
            files.update(std::fs::read(&**file).unwrap_or_default());
        }
        let passwords = kafka.tls.iter().filter_map(|tls| tls.key_password.as_ref());
        let others = kafka.properties.iter().filter(|(name, _)| !is_login(name)).map(|(_, value)| value);
        for text in passwords.chain(others).chain([&kafka.brokers]) {
            files.update(text.current()?);
            files.update([0]);
        }
        Ok(Self { login, token, files: files.finalize().into() })
    }

    /// Whether any of the secrets can change while the host runs.
    fn may_change(&self, kafka: &projector_config::Kafka) -> bool {
        let has_files = kafka.tls.as_ref().is_some_and(|tls| tls.ca.is_some() || tls.certificate.is_some());
        let texts = [kafka.username(), kafka.password(), Some(&kafka.brokers)];
        let mut texts = texts.into_iter().flatten().chain(kafka.properties.values());
        has_files
            || kafka.mechanism() == Some(SaslMechanism::OauthBearer)
            || texts.any(|text| text.is_from_file())
            || kafka.tls.iter().filter_map(|tls| tls.key_password.as_ref()).any(|text| text.is_from_file())
    }
}

fn is_login(property: &str) -> bool {
    ["sasl.username", "sasl.password"].contains(&property)
}

/// The thread that checks secrets. It ends when the last [`Connection`] is dropped.
struct SecretsWatch {
    shared: Weak<Shared>,
    applied: Secrets,
    /// When the next token is fetched.
    next_fetch: Instant,
    /// How many fetches in a row have failed.
    failures: u32,
    last_warning: Option<Instant>,
}

impl SecretsWatch {
    fn new(shared: Weak<Shared>, applied: Secrets) -> Self {
        Self { shared, applied, next_fetch: Instant::now(), failures: 0, last_warning: None }
    }

    fn run(mut self) {
        while let Some(connection) = self.shared.upgrade().map(Connection) {
            self.apply_changes(&connection);
            self.fetch_token(&connection);
            drop(connection);
            std::thread::sleep(CHECK_INTERVAL);
        }
    }

    /// Applies changes of the files.
    fn apply_changes(&mut self, connection: &Connection) {
        let now = match Secrets::read(connection.kafka()) {
            Ok(now) => now,
            Err(error) => {
                return self.warn(&error, "a Kafka secret cannot be read: the host keeps using the last one");
            }
        };
        if now.login != self.applied.login
            && let Some(login) = now.login.clone()
        {
            tracing::info!(user = login.0, "the Kafka user or password changed: new connections use it");
            connection.set_login(login);
            self.applied.login = now.login;
        }
        if now.token != self.applied.token
            && let Some(token) = &now.token
        {
            tracing::info!("the Kafka token changed: new connections use it");
            connection.set_token(Token::given(token));
            self.applied.token = now.token;
        }
        if now.files != self.applied.files {
            match verify::make_client(connection.kafka()) {
                Ok(()) => {
                    tracing::info!(
                        "files for the Kafka connection changed: the host creates new clients with them"
                    );
                    self.applied.files = now.files;
                    connection.0.edition.fetch_add(1, Ordering::AcqRel);
                }
                Err(error) => self.warn(
                    &error,
                    "files for the Kafka connection changed, and cannot be used: the host keeps using the previous ones",
                ),
            }
        }
    }

    /// Fetches the next token well before the last one expires. A failed fetch is repeated after a pause.
    fn fetch_token(&mut self, connection: &Connection) {
        let Some(oidc) = connection.kafka().sasl.as_ref().and_then(|sasl| sasl.oidc.as_ref()) else { return };
        if self.next_fetch > Instant::now() {
            return;
        }
        match oauth::fetch(oidc) {
            Ok(token) => {
                if std::mem::take(&mut self.failures) > 0 {
                    tracing::info!("the token endpoint works again");
                }
                self.last_warning = None;
                self.next_fetch = Instant::now() + token.renew_after();
                tracing::debug!("fetched a new Kafka token");
                connection.set_token(token);
            }
            Err(reason) => {
                self.failures += 1;
                // The pause is a second longer after each failure, up to 30 s.
                self.next_fetch = Instant::now() + Duration::from_secs(u64::from(self.failures).min(30));
                let fault = ConnectionFault::new(ConnectionFaultKind::Token, reason);
                self.warn(&fault, "cannot fetch a Kafka token; retrying");
                connection.0.token_fault.set(Some(fault));
            }
        }
    }

    fn warn(&mut self, error: &dyn std::fmt::Display, what: &str) {
        if self.last_warning.is_none_or(|last| last.elapsed() > LOG_INTERVAL) {
            self.last_warning = Some(Instant::now());
            tracing::warn!(%error, "{what}");
        }
    }
}
