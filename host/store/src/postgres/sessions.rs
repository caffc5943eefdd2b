//! The sessions of a store: as many as the configuration says, and no more.
//!
//! Three of them are for what lasts long ([`Sessions::own`]): a lock of a generation that is caught up, a
//! deployment, a comparison. The rest is for transactions and single statements, which wait for each other.
//!
//! Invariants: a session is given back outside of a transaction; one that broke is closed; whoever asks while
//! the database is down learns what the one that asks for all found out; nobody waits for an answer that does
//! not come ([`silence`]).

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
use super::errors::classify;
use super::line::{Line, Lines};
use crate::{Outage, Setup, StoreError};

/// Sessions for what lasts long.
pub(super) const OWN: u32 = 3;

/// How long a session is waited for, when all are in use.
const PATIENCE: Duration = Duration::from_secs(10);
/// A session is closed after so long, so that a changed password or address is in use at last.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// One that nobody needed for so long is closed.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// How long a session may take to end what it was at.
const RETURN: Duration = Duration::from_secs(5);
/// How often it is looked at whether one of several servers still takes writes.
const LOOK: Duration = Duration::from_secs(1);

/// All that this process has open with a database, for the host and its admin API alike.
static SHARED: LazyLock<Mutex<HashMap<String, Weak<Sessions>>>> = LazyLock::new(Mutex::default);

pub(super) struct Sessions {
    settings: config::Store,
    places: Arc<Semaphore>,
    own_places: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// When and why the database did not answer last, if it did not, and whoever asks it whether it does
    /// again: one at a time, so that many projections are no storm on a database that comes back.
    down: Mutex<Option<(Instant, Cause)>>,
    probe: tokio::sync::Mutex<()>,
    /// Whether sessions last, which is found out once.
    lasting: OnceCell<()>,
    /// What was said last of the connection.
    told: Mutex<Option<(String, bool)>>,
    /// What goes over all of these connections.
    lines: Arc<Lines>,
}

struct Idle {
    connection: PgConnection,
    line: Arc<Line>,
    born: Instant,
    since: Instant,
    /// When it was seen last that the server takes writes; `None`: there is but one server.
    seen: Option<Instant>,
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
    /// Those of a store's settings: whoever opens the same store in this process shares them.
    pub(super) async fn open(settings: &config::Store) -> Result<Arc<Self>, StoreError> {
        let connections = settings.connections.get();
        if connections < OWN + 2 {
            return Err(StoreError::Setup(Setup::new(
                format!("the store's `connections` is {connections}"),
                format!(
                    "give it {} at least: {OWN} are for deployments, comparisons and catching up, one is for what the host asks, and each lane that writes at the same time needs one",
                    OWN + 2
                ),
            )));
        }
        let sessions = Self::shared(settings);
        sessions.lasting.get_or_try_init(|| sessions.check_lasting()).await?;
        Ok(sessions)
    }

    fn shared(settings: &config::Store) -> Arc<Self> {
        let mut shared = lock(&SHARED);
        shared.retain(|_, sessions| sessions.strong_count() > 0);
        let key = key(settings);
        if let Some(known) = shared.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let places = |number: u32| Arc::new(Semaphore::new(number as usize));
        let sessions = Arc::new(Self {
            settings: settings.clone(),
            places: places(settings.connections.get() - OWN),
            own_places: places(OWN),
            idle: Mutex::default(),
            down: Mutex::default(),
            probe: tokio::sync::Mutex::default(),
            lasting: OnceCell::new(),
            told: Mutex::default(),
            lines: Arc::default(),
        });
        tokio::spawn(silence::end_silent(Arc::downgrade(&sessions)));
        shared.insert(key, Arc::downgrade(&sessions));
        sessions
    }

    /// How many transactions may be open at once.
    pub(super) fn writers(&self) -> usize {
        (self.settings.connections.get() - OWN) as usize
    }

    /// Refuses a pooler in transaction mode.
    async fn check_lasting(self: &Arc<Self>) -> Result<(), StoreError> {
        let (mut first, mut second) = (self.session().await?, self.own().await?);
        connect::check_pooling(&mut first, &mut second).await?;
        second.close().await;
        Ok(())
    }

    /// A session, which is given back when it is dropped.
    pub(super) async fn session(self: &Arc<Self>) -> Result<Session, StoreError> {
        let place = self.place(&self.places).await?;
        self.one_probe(self.take(place)).await
    }

    /// Begins a transaction. Dropped, it is rolled back.
    pub(super) async fn begin(self: &Arc<Self>, statement: &'static str) -> Result<Tx, StoreError> {
        let place = self.place(&self.places).await?;
        let begun = async {
            let mut session = self.take(place).await?;
            // Before the answer: whoever waits for it may be dropped.
            session.in_transaction = true;
            sqlx::raw_sql(statement).execute(&mut *session).await.map_err(classify)?;
            Ok(Tx(session))
        };
        self.one_probe(begun).await
    }

    /// A session for what lasts long, which is closed when it is dropped: it may be set as its user likes.
    pub(super) async fn own(self: &Arc<Self>) -> Result<Session, StoreError> {
        let place = self.place(&self.own_places).await?;
        let mut session = self.one_probe(self.connect(place)).await?;
        session.home = None;
        session.line.lift_bound();
        Ok(session)
    }

    /// Changes whenever the server answers a session that it has let in.
    pub(super) fn heard(&self) -> u64 {
        self.lines.heard()
    }

    async fn place(&self, places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, StoreError> {
        let busy = || {
            let connections = self.settings.connections;
            StoreError::Unavailable(Outage::new(format!(
                "all connections of the store are in use for {PATIENCE:?}; raise its `connections` ({connections})"
            )))
        };
        let place = tokio::time::timeout(PATIENCE, places.clone().acquire_owned()).await;
        place.map_err(|_| busy())?.map_err(|_| busy())
    }

    /// One that is idle, or a new one.
    async fn take(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Result<Session, StoreError> {
        let now = Instant::now();
        let found = {
            let mut idle = lock(&self.idle);
            idle.retain(|one| now - one.since < IDLE && now - one.born < LIFE);
            idle.pop()
        };
        let Some(Idle { mut connection, line, born, seen, .. }) = found else {
            return self.connect(place).await;
        };
        let looked = match seen {
            Some(seen) if now - seen > LOOK => match takes_writes(&mut connection).await {
                true => Some(now),
                // Another server may have taken over: none of these is of use.
                false => {
                    lock(&self.idle).clear();
                    return self.connect(place).await;
                }
            },
            seen => seen,
        };
        Ok(self.lend((connection, line), place, (born, looked)))
    }

    async fn connect(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Result<Session, StoreError> {
        let connected = connect::connect(&self.settings, &self.lines).await?;
        self.tell(&connected);
        let seen = connected.one_of_several.then(Instant::now);
        Ok(self.lend((connected.connection, connected.line), place, (Instant::now(), seen)))
    }

    fn lend(
        self: &Arc<Self>,
        (connection, line): (PgConnection, Arc<Line>),
        place: OwnedSemaphorePermit,
        (born, seen): (Instant, Option<Instant>),
    ) -> Session {
        Session {
            connection: Some(connection),
            line,
            home: Some(self.clone()),
            in_transaction: false,
            born,
            seen,
            place: Some(place),
        }
    }

    /// Says to what the host is connected, and how, when that is news.
    fn tell(&self, connected: &Connected) {
        let Connected { server, database, role, encrypted, exposed, .. } = connected;
        let news = Some((server.clone(), *encrypted));
        if std::mem::replace(&mut *lock(&self.told), news.clone()) == news {
            return;
        }
        tracing::info!(store = server, database, role, encrypted, "store connected");
        if *exposed {
            tracing::warn!(
                store = server,
                "the connection to the store is not encrypted, and leaves this machine: turn on `ssl` at the server and say sslmode=verify-full in the store's url"
            );
        }
    }

    /// Connects; while the database is down, one at a time: whoever else asks waits for what that one finds
    /// out.
    async fn one_probe<T>(
        &self,
        connect: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let asked = Instant::now();
        let down = || lock(&self.down).clone();
        let mut probe = None;
        if down().is_some() {
            probe = Some(self.probe.lock().await);
            match down() {
                Some((since, cause)) if since > asked => return Err(cause.error()),
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

    /// Closes what is idle, unless it is another one's as well.
    pub(super) async fn close(self: &Arc<Self>) {
        if Arc::strong_count(self) > 1 {
            return;
        }
        let idle = std::mem::take(&mut *lock(&self.idle));
        for one in idle {
            let _ = tokio::time::timeout(RETURN, one.connection.close()).await;
        }
    }

    fn give_back(&self, one: Idle) {
        lock(&self.idle).push(Idle { since: Instant::now(), ..one });
    }
}

/// Which settings are one store's.
fn key(settings: &config::Store) -> String {
    let config::Store { url, password, connections, .. } = settings;
    let times = [settings.statement_timeout, settings.lock_timeout, settings.idle_in_transaction_timeout];
    format!("{}\0{:?}\0{connections}\0{times:?}", &**url, password.as_deref())
}

async fn takes_writes(connection: &mut PgConnection) -> bool {
    let asked = sqlx::raw_sql(
        "select (not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off')::text",
    );
    let answer = tokio::time::timeout(RETURN, asked.fetch_one(connection)).await;
    matches!(answer, Ok(Ok(row)) if row.get::<String, _>(0) == "true")
}

/// A session with the database, in use.
pub(crate) struct Session {
    /// `None` only when it is dropped.
    connection: Option<PgConnection>,
    line: Arc<Line>,
    /// Where it is given back to; `None`: it is closed.
    home: Option<Arc<Sessions>>,
    in_transaction: bool,
    born: Instant,
    seen: Option<Instant>,
    place: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// Says goodbye to the server, which then lets go of its locks.
    pub(super) async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = tokio::time::timeout(RETURN, connection.close()).await;
        }
    }
}

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (Some(mut connection), Some(home)) = (self.connection.take(), self.home.take()) else { return };
        let (in_transaction, born, seen, place) =
            (self.in_transaction, self.born, self.seen, self.place.take());
        let line = self.line.clone();
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let ended = async {
                match in_transaction {
                    true => sqlx::raw_sql("rollback").execute(&mut connection).await.map(drop),
                    // What was not waited for to its end ends now.
                    false => connection.ping().await,
                }
            };
            if matches!(tokio::time::timeout(RETURN, ended).await, Ok(Ok(()))) {
                home.give_back(Idle { connection, line, born, since: born, seen });
            }
            // The session is idle, or gone, before another one takes its place.
            drop(place);
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
