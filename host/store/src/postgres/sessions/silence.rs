//! Ends connections that an answer does not come over any more.
//!
//! A statement may run for half a minute, and what was built anew for hours. So one that has no answer for a
//! while is not ended for that: the server is asked, over another connection and with a short deadline,
//! which sessions it is at work for. One that it is not at work for has lost its answer, or its question.

use std::collections::HashSet;
use std::sync::Weak;
use std::time::{Duration, Instant};

use sqlx::Row;
use sqlx::postgres::PgConnection;
use tokio::time::{sleep, timeout};

use super::{Idle, Sessions, lock};
use crate::StoreError;
use crate::postgres::connect;
use crate::postgres::errors::classify;

/// How often it is looked for statements without an answer.
const LOOK: Duration = Duration::from_millis(500);
/// How long an answer may take before the server is asked whether it is at work, and then how often.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(2);
/// How long it may take to say so, over a connection that is there, and over a new one.
const IDLE_ANSWER: Duration = Duration::from_secs(1);
const NEW_ANSWER: Duration = Duration::from_secs(4);
/// How long a statement may take longer than the server lets it.
const SLACK: Duration = Duration::from_secs(10);

/// For as long as the sessions are used.
pub(super) async fn end_silent(sessions: Weak<Sessions>) {
    let mut looked = Instant::now();
    loop {
        sleep(LOOK).await;
        let Some(sessions) = sessions.upgrade() else { return };
        let unanswered = sessions.lines.unanswered(PATIENCE);
        if unanswered.is_empty() || looked.elapsed() < AGAIN {
            continue;
        }
        let found = sessions.at_work().await;
        looked = Instant::now();
        let mut ended = false;
        for (line, since) in unanswered {
            ended |= match &found {
                Found::AtWork(at_work) if !at_work.contains(&line.session()) => {
                    line.end_if_unanswered(since, "the server is not at work for it")
                }
                Found::Silent(reason) => line.end_if_unanswered(since, reason),
                // The server ends the statement, unless its end is what was lost.
                Found::AtWork(_) | Found::Unknown => {
                    let most = sessions.settings.statement_timeout;
                    line.is_bounded()
                        && !most.is_zero()
                        && since.elapsed() > most + SLACK
                        && line.end_if_unanswered(since, "it is over the statement's time limit")
                }
            };
        }
        if ended {
            // What is idle may be silent as well.
            lock(&sessions.idle).clear();
        }
    }
}

/// What the server says of its sessions.
enum Found {
    AtWork(HashSet<i32>),
    /// It does not answer.
    Silent(String),
    /// It could not be asked.
    Unknown,
}

impl Sessions {
    async fn at_work(&self) -> Found {
        let places = async {
            tokio::select! {
                biased;
                place = self.places.clone().acquire_owned() => (place, true),
                // All others may be waiting for answers.
                place = self.own_places.clone().acquire_owned() => (place, false),
            }
        };
        let Ok((Ok(_place), may_stay)) = timeout(IDLE_ANSWER, places).await else { return Found::Unknown };
        let idle = lock(&self.idle).pop();
        if let Some(mut idle) = idle
            && let Ok(Ok(found)) = timeout(IDLE_ANSWER, ask(&mut idle.connection)).await
        {
            self.give_back(idle);
            return Found::AtWork(found);
        }
        match timeout(NEW_ANSWER, self.ask_anew(may_stay)).await {
            Ok(Ok(found)) => Found::AtWork(found),
            Ok(Err(StoreError::Unavailable(outage))) => Found::Silent(outage.message),
            Ok(Err(_)) => Found::Unknown,
            Err(_) => Found::Silent(format!("a new connection has no answer within {NEW_ANSWER:?} either")),
        }
    }

    /// Over a new connection, which stays where there is a place for it.
    async fn ask_anew(&self, may_stay: bool) -> Result<HashSet<i32>, StoreError> {
        let connect::Connected { mut connection, line, one_of_several, .. } =
            connect::connect(&self.settings, &self.lines).await?;
        let found = ask(&mut connection).await?;
        if may_stay {
            let now = Instant::now();
            let seen = one_of_several.then_some(now);
            self.give_back(Idle { connection, line, born: now, since: now, seen });
        }
        Ok(found)
    }
}

/// The sessions of this role that the server is at work for. Without `track_activities` it does not tell, and
/// all count as such.
async fn ask(connection: &mut PgConnection) -> Result<HashSet<i32>, StoreError> {
    let rows = sqlx::raw_sql(
        "select pid::text from pg_stat_activity
         where usename = session_user and (state is null or state not like 'idle%')",
    );
    let rows = rows.fetch_all(connection).await.map_err(classify)?;
    Ok(rows.iter().filter_map(|row| row.get::<String, _>(0).parse().ok()).collect())
}
