//! Closes connections on which an answer will not come any more.
//!
//! A statement may run for half a minute, and the build of an index for hours. So a statement without an answer is not
//! ended for that alone: the host asks the server, over another connection and with a short deadline, for which sessions
//! the server is working. If it is not working for a session, the answer or the request of that session was lost.

use std::collections::HashSet;
use std::sync::Weak;
use std::time::{Duration, Instant};

use sqlx::Row;
use sqlx::postgres::PgConnection;
use tokio::time::{sleep, timeout};

use super::{Idle, Sessions, lock};
use crate::error::StoreError;
use crate::postgres::connect;
use crate::postgres::errors::classify;

/// How often the connections are checked for statements without an answer.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How long an answer may take before the server is asked whether it works on the statement, and then how often.
const PATIENCE: Duration = Duration::from_secs(5);
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the server may take for that answer, over an idle connection, and over a new one.
const IDLE_ANSWER: Duration = Duration::from_secs(1);
const NEW_ANSWER: Duration = Duration::from_secs(4);
/// How much longer than the server's statement timeout the answer may take.
const SLACK: Duration = Duration::from_secs(10);

/// Runs for as long as the sessions are used.
pub(super) async fn close_silent(sessions: Weak<Sessions>) {
    let mut asked_at = Instant::now();
    loop {
        sleep(CHECK_INTERVAL).await;
        let Some(sessions) = sessions.upgrade() else { return };
        let unanswered = sessions.monitors.unanswered(PATIENCE);
        if unanswered.is_empty() || asked_at.elapsed() < ASK_INTERVAL {
            continue;
        }
        let answer = sessions.ask_server().await;
        asked_at = Instant::now();
        let mut any_closed = false;
        for (monitor, since) in unanswered {
            any_closed |= match &answer {
                Answer::WorksFor(busy) if !busy.contains(&monitor.session()) => monitor
                    .close_if_unanswered(since, "the server does not work on a statement of this session"),
                Answer::Missing(reason) => monitor.close_if_unanswered(since, reason),
                // The server ends the statement at its timeout. If that end was lost, the host ends it soon after.
                Answer::WorksFor(_) | Answer::Unknown => {
                    let most = sessions.settings.statement_timeout;
                    monitor.has_time_limit()
                        && !most.is_zero()
                        && since.elapsed() > most + SLACK
                        && monitor.close_if_unanswered(since, "the statement timeout has passed")
                }
            };
        }
        if any_closed {
            // Idle connections may be silent as well.
            lock(&sessions.idle).clear();
        }
    }
}

/// The server's answer to the question for which sessions it is working.
enum Answer {
    WorksFor(HashSet<i32>),
    /// The server does not answer, for this reason.
    Missing(String),
    /// It could not be asked.
    Unknown,
}

impl Sessions {
    async fn ask_server(&self) -> Answer {
        let permit = async {
            tokio::select! {
                biased;
                permit = self.permits.clone().acquire_owned() => (permit, true),
                // All sessions of the pool may be waiting for answers.
                permit = self.dedicated_permits.clone().acquire_owned() => (permit, false),
            }
        };
        let Ok((Ok(_permit), may_stay)) = timeout(IDLE_ANSWER, permit).await else { return Answer::Unknown };
        let idle = lock(&self.idle).pop();
        if let Some(mut idle) = idle
            && let Ok(Ok(busy)) = timeout(IDLE_ANSWER, busy_sessions(&mut idle.connection)).await
        {
            self.give_back(idle);
            return Answer::WorksFor(busy);
        }
        match timeout(NEW_ANSWER, self.ask_anew(may_stay)).await {
            Ok(Ok(busy)) => Answer::WorksFor(busy),
            Ok(Err(StoreError::Unavailable(outage))) => Answer::Missing(outage.message),
            Ok(Err(_)) => Answer::Unknown,
            Err(_) => Answer::Missing(format!("a new connection has no answer within {NEW_ANSWER:?} either")),
        }
    }

    /// Asks over a new connection, which is added to the pool if it `may_stay`.
    async fn ask_anew(&self, may_stay: bool) -> Result<HashSet<i32>, StoreError> {
        let connect::Connected { mut connection, monitor, one_of_several, .. } =
            connect::connect(&self.settings, &self.monitors).await?;
        let busy = busy_sessions(&mut connection).await?;
        if may_stay {
            let now = Instant::now();
            let writable_at = one_of_several.then_some(now);
            self.give_back(Idle { connection, monitor, opened: now, since: now, writable_at });
        }
        Ok(busy)
    }
}

/// The sessions of this role for which the server is working. If `track_activities` is off, the server does not show this,
/// and all sessions count as such.
async fn busy_sessions(connection: &mut PgConnection) -> Result<HashSet<i32>, StoreError> {
    let rows = sqlx::raw_sql(
        "select pid::text from pg_stat_activity
         where usename = session_user and (state is null or state not like 'idle%')",
    );
    let rows = rows.fetch_all(connection).await.map_err(classify)?;
    Ok(rows.iter().filter_map(|row| row.get::<String, _>(0).parse().ok()).collect())
}
