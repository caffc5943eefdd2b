//! Detects that a store does not answer this host, or that the control state cannot be read.
//!
//! The host sends a query at least twice a second, so a database that sends nothing for many intervals does not answer.
//! Intervals are counted, not time: a host that was suspended itself could not receive anything in that time.

use std::sync::{Arc, Weak};

use projector_core::failure::{Blocker, FailureKind};
use projector_store::Store;
use tokio::sync::watch;
use tokio::time::sleep;

use super::INTERVAL;
use crate::retry::Backoff;

/// Intervals without an answer, or without a successful read, after which this is logged: 10 s.
const LOGGED_AFTER: u32 = 20;
/// Intervals without an answer after which the store counts as unresponsive: 15 s.
const UNRESPONSIVE_AFTER: u32 = 30;

/// Runs for as long as the store is used. `failure`: why the last read of the control state failed. `report`: gets the
/// reason why the store counts as unresponsive, or `None`.
pub(super) async fn watch(
    store: Weak<dyn Store>,
    failure: watch::Receiver<Option<Blocker>>,
    report: watch::Sender<Option<Arc<str>>>,
    mut backoff: Backoff,
) {
    let (mut last_answer, mut unanswered, mut failed) = (None, 0, 0);
    loop {
        sleep(INTERVAL).await;
        let Some(now) = store.upgrade().map(|store| store.answer_count()) else { return };
        let failure = failure.borrow().clone();
        let answers = now.is_none() || std::mem::replace(&mut last_answer, now) != now;
        unanswered = if answers { 0 } else { unanswered + 1 };
        failed = if failure.is_some() { failed + 1 } else { 0 };
        let blocker = match failure {
            _ if unanswered < LOGGED_AFTER && failed < LOGGED_AFTER => {
                backoff.succeeded();
                report.send_replace(None);
                continue;
            }
            None => Blocker::new(FailureKind::Database, "the database does not answer"),
            Some(Blocker { kind, reason }) if unanswered >= LOGGED_AFTER => {
                Blocker::new(kind, format!("the database does not answer: {reason}"))
            }
            Some(Blocker { kind, reason }) => Blocker::new(
                kind,
                format!("the control state (operators' requests) cannot be read: {reason}"),
            ),
        };
        backoff.failed(blocker.kind, &blocker.reason);
        if unanswered >= UNRESPONSIVE_AFTER {
            report.send_replace(Some(blocker.reason.into()));
        }
    }
}
