//! The connection pool of a store: at most as many sessions as the configuration allows.
//!
//! Three sessions are reserved for work that takes long ([`Sessions::dedicated`]): the locks of generations that are caught
//! up, a deployment, a comparison. All others are for transactions and single statements, which wait for a free session.
//!
//! Invariants: a session returns to the pool only outside of a transaction, and a session that failed is closed. While the
//! database is down, one caller at a time tries to connect, and the others get its result: many projections at once must
//! not overload a database that is starting. A connection on which an answer is missing is closed ([`silence`]), so no
//! caller waits without end.

mod silence;

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use projector_config as config;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::connect::{self, Connected};
use super::connection_monitor::{ConnectionMonitor, ConnectionMonitors};
use super::errors::classify;
use crate::error::StoreError;
use crate::fault::{Outage, Setup};

/// How many sessions are reserved for work that takes long.
const DEDICATED: u32 = 3;

/// How long a caller waits for a session when all are in use.
const PATIENCE: Duration = Duration::from_secs(10);
/// A session is closed at this age, so that a changed password or address comes into use.
const MOST_AGE: Duration = Duration::from_secs(30 * 60);
/// A session that was not used for this long is closed.
const MOST_IDLE: Duration = Duration::from_secs(10 * 60);
/// How long a session may take to end its transaction or its last statement before it is closed.
const RETURN_WITHIN: Duration = Duration::from_secs(5);
/// Where there are several servers: after this time, a session is used again only if its server still accepts writes.
const WRITABLE_FOR: Duration = Duration::from_secs(1);

/// The pools of this process, one for each database. The host and its admin API share them.
static SHARED: LazyLock<Mutex<HashMap<String, Weak<Sessions>>>> = LazyLock::new(Mutex::default);

pub(super) struct Sessions {
    settings: config::Store,
    /// One permit for each session that may be open.
    permits: Arc<Semaphore>,
    dedicated_permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// When and why the last attempt to use the database failed. `None`: it succeeded.
    down: Mutex<Option<(Instant, Cause)>>,
    /// While the database is down, the caller that has this lock tries to connect.
    probe: tokio::sync::Mutex<()>,
    /// Set once it is known that no pooler in transaction mode is in between.
    pooling_checked: OnceCell<()>,
    /// The server and the encryption that were logged last.
    last_logged: Mutex<Option<(String, bool)>>,
    monitors: Arc<ConnectionMonitors>,
}

/// A session that is not in use.
struct Idle {
    connection: PgConnection,
    monitor: Arc<ConnectionMonitor>,
    opened: Instant,
    since: Instant,
    /// When the server last accepted writes. `None`: the url names only one server, so this is not checked.
    writable_at: Option<Instant>,
}

#[derive(Clone)]
enum Cause {
    Outage(Outage),
    Setup(Setup),
}

impl Cause {
    fn of(error: &StoreError) -> Cause {
        match error {
            StoreError::Setup(setup) => Cause::Setup(setup.clone()),
            StoreError::Unavailable(outage) => Cause::Outage(outage.clone()),
            error => Cause::Outage(Outage::new(error.to_string())),
        }
    }

    fn error(self) -> StoreError {
        match self {
            Cause::Outage(outage) => StoreError::Unavailable(outage),
            Cause::Setup(setup) => StoreError::Setup(setup),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// The pool of a store. All that open the same store in this process share it.
    pub(super) async fn open(settings: &config::Store) -> Result<Arc<Self>, StoreError> {
        let connections = settings.connections.get();
        if connections < DEDICATED + 2 {
            return Err(StoreError::Setup(Setup::new(
                format!("the store's `connections` is {connections}"),
                format!(
                    "set it to {} or more: {DEDICATED} are for deployments, comparisons and catching up, one is for the host's own requests, and each lane that writes at the same time needs one",
                    DEDICATED + 2
                ),
            )));
        }
        let sessions = Self::shared(settings);
        sessions.pooling_checked.get_or_try_init(|| sessions.check_pooling()).await?;
        Ok(sessions)
    }

    fn shared(settings: &config::Store) -> Arc<Self> {
        let mut shared = lock(&SHARED);
        shared.retain(|_, sessions| sessions.strong_count() > 0);
        let key = key(settings);
        if let Some(known) = shared.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let permits = |number: u32| Arc::new(Semaphore::new(number as usize));
        let sessions = Arc::new(Self {
            settings: settings.clone(),
            permits: permits(settings.connections.get() - DEDICATED),
            dedicated_permits: permits(DEDICATED),
            idle: Mutex::default(),
            down: Mutex::default(),
            probe: tokio::sync::Mutex::default(),
            pooling_checked: OnceCell::new(),
            last_logged: Mutex::default(),
            monitors: Arc::default(),
        });
        tokio::spawn(silence::close_silent(Arc::downgrade(&sessions)));
        shared.insert(key, Arc::downgrade(&sessions));
        sessions
    }

    /// How many transactions may be open at once.
    pub(super) fn writers(&self) -> usize {
        (self.settings.connections.get() - DEDICATED) as usize
    }

    /// Refuses a pooler in transaction mode.
    async fn check_pooling(self: &Arc<Self>) -> Result<(), StoreError> {
        let (mut first, mut second) = (self.session().await?, self.dedicated().await?);
        connect::check_pooling(&mut first, &mut second).await?;
        second.close().await;
        Ok(())
    }

    /// A session, which returns to the pool when it is dropped.
    pub(super) async fn session(self: &Arc<Self>) -> Result<Session, StoreError> {
        let permit = self.permit(&self.permits).await?;
        self.one_probe(self.reuse_or_connect(permit)).await
    }

    /// Begins a transaction. Dropped, it is rolled back.
    pub(super) async fn begin(self: &Arc<Self>, statement: &'static str) -> Result<Tx, StoreError> {
        let permit = self.permit(&self.permits).await?;
        let begun = async {
            let mut session = self.reuse_or_connect(permit).await?;
            // Set before the statement, because this future may be dropped before the answer comes.
            session.in_transaction = true;
            sqlx::raw_sql(statement).execute(&mut *session).await.map_err(classify)?;
            Ok(Tx(session))
        };
        self.one_probe(begun).await
    }

    /// A session for work that takes long. Its user may change its settings, since it is closed when it is dropped.
    pub(super) async fn dedicated(self: &Arc<Self>) -> Result<Session, StoreError> {
        let permit = self.permit(&self.dedicated_permits).await?;
        let mut session = self.one_probe(self.connect(permit)).await?;
        session.pool = None;
        session.monitor.lift_time_limit();
        Ok(session)
    }

    /// Changes whenever the server sends something to one of these sessions.
    pub(super) fn answer_count(&self) -> u64 {
        self.monitors.answer_count()
    }

    async fn permit(&self, permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, StoreError> {
        let busy = || {
            let connections = self.settings.connections;
            StoreError::Unavailable(Outage::new(format!(
                "all connections of the store are in use for {PATIENCE:?}; raise its `connections` ({connections})"
            )))
        };
        let permit = tokio::time::timeout(PATIENCE, permits.clone().acquire_owned()).await;
        permit.map_err(|_| busy())?.map_err(|_| busy())
    }

    /// An idle session, or a new one.
    async fn reuse_or_connect(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Result<Session, StoreError> {
        let now = Instant::now();
        let found = {
            let mut idle = lock(&self.idle);
            idle.retain(|one| now - one.since < MOST_IDLE && now - one.opened < MOST_AGE);
            idle.pop()
        };
        let Some(Idle { mut connection, monitor, opened, writable_at, .. }) = found else {
            return self.connect(permit).await;
        };
        let writable_at = match writable_at {
            Some(at) if now - at > WRITABLE_FOR => match accepts_writes(&mut connection).await {
                true => Some(now),
                // Another server may have taken over, so all idle sessions are closed.
                false => {
                    lock(&self.idle).clear();
                    return self.connect(permit).await;
                }
            },
            at => at,
        };
        Ok(self.in_use((connection, monitor), permit, (opened, writable_at)))
    }

    async fn connect(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Result<Session, StoreError> {
        let connected = connect::connect(&self.settings, &self.monitors).await?;
        self.log_connection(&connected);
        let writable_at = connected.one_of_several.then(Instant::now);
        Ok(self.in_use((connected.connection, connected.monitor), permit, (Instant::now(), writable_at)))
    }

    fn in_use(
        self: &Arc<Self>,
        (connection, monitor): (PgConnection, Arc<ConnectionMonitor>),
        permit: OwnedSemaphorePermit,
        (opened, writable_at): (Instant, Option<Instant>),
    ) -> Session {
        Session {
            connection: Some(connection),
            monitor,
            pool: Some(self.clone()),
            in_transaction: false,
            opened,
            writable_at,
            permit: Some(permit),
        }
    }

    /// Logs the server, and whether the connection is encrypted, when one of them has changed.
    fn log_connection(&self, connected: &Connected) {
        let Connected { server, database, role, encrypted, exposed, .. } = connected;
        let current = Some((server.clone(), *encrypted));
        if std::mem::replace(&mut *lock(&self.last_logged), current.clone()) == current {
            return;
        }
        tracing::info!(store = server, database, role, encrypted, "store connected");
        if *exposed {
            tracing::warn!(
                store = server,
                "the connection to the store is not encrypted, and leaves this machine: turn on `ssl` at the server and set sslmode=verify-full in the store's url"
            );
        }
    }

    /// Runs `connect`. While the database is down, one caller at a time does so. A caller that has to wait for its turn does
    /// not try again if another attempt failed meanwhile: it gets that attempt's error.
    async fn one_probe<T>(
        &self,
        connect: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let called = Instant::now();
        let down = || lock(&self.down).clone();
        let mut probe = None;
        if down().is_some() {
            probe = Some(self.probe.lock().await);
            match down() {
                Some((since, cause)) if since > called => return Err(cause.error()),
                Some(_) => {}
                None => probe = None,
            }
        }
        let connected = connect.await;
        let cause = connected.as_ref().err().map(|error| (Instant::now(), Cause::of(error)));
        *lock(&self.down) = cause;
        drop(probe);
        connected
    }

    /// Closes the idle sessions, unless another store of this process shares the pool.
    pub(super) async fn close(self: &Arc<Self>) {
        if Arc::strong_count(self) > 1 {
            return;
        }
        let idle = std::mem::take(&mut *lock(&self.idle));
        for session in idle {
            let _ = tokio::time::timeout(RETURN_WITHIN, session.connection.close()).await;
        }
    }

    fn give_back(&self, session: Idle) {
        lock(&self.idle).push(Idle { since: Instant::now(), ..session });
    }
}

/// Stores with the same key share a pool.
fn key(settings: &config::Store) -> String {
    let config::Store { url, password, connections, .. } = settings;
    let times = [settings.statement_timeout, settings.lock_timeout, settings.idle_in_transaction_timeout];
    format!("{}\0{:?}\0{connections}\0{times:?}", &**url, password.as_deref())
}

async fn accepts_writes(connection: &mut PgConnection) -> bool {
    let query = sqlx::raw_sql(
        "select (not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off')::text",
    );
    let answer = tokio::time::timeout(RETURN_WITHIN, query.fetch_one(connection)).await;
    matches!(answer, Ok(Ok(row)) if row.get::<String, _>(0) == "true")
}

/// A session that is in use.
pub(crate) struct Session {
    /// `None` only after it was closed or dropped.
    connection: Option<PgConnection>,
    monitor: Arc<ConnectionMonitor>,
    /// The pool to which it returns. `None`: it is closed instead.
    pool: Option<Arc<Sessions>>,
    in_transaction: bool,
    opened: Instant,
    /// As in [`Idle`].
    writable_at: Option<Instant>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// Ends the session at the server, which then releases its locks at once.
    pub(super) async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = tokio::time::timeout(RETURN_WITHIN, connection.close()).await;
        }
    }
}

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("a session has a connection until it is dropped")
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a session has a connection until it is dropped")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (Some(mut connection), Some(pool)) = (self.connection.take(), self.pool.take()) else { return };
        let (in_transaction, opened, permit) = (self.in_transaction, self.opened, self.permit.take());
        let (monitor, writable_at) = (self.monitor.clone(), self.writable_at);
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let ended = async {
                match in_transaction {
                    true => sqlx::raw_sql("rollback").execute(&mut connection).await.map(drop),
                    // Reads the rest of an answer whose future was dropped.
                    false => connection.ping().await,
                }
            };
            if matches!(tokio::time::timeout(RETURN_WITHIN, ended).await, Ok(Ok(()))) {
                pool.give_back(Idle { connection, monitor, opened, since: opened, writable_at });
            }
            // Only now may another session be opened instead: this one is idle, or closed.
            drop(permit);
        });
    }
}

/// A transaction, rolled back when it is dropped.
pub(crate) struct Tx(Session);

impl Tx {
    /// After an error the outcome may be unknown.
    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        sqlx::raw_sql("COMMIT").execute(&mut *self.0).await.map_err(classify)?;
        self.0.in_transaction = false;
        Ok(())
    }
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}
