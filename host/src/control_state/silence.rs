//! Detects that a store does not answer this host, or that the control state cannot be read.
//!
//! The store is asked twice a second, so a store that sends nothing does not answer. Intervals are counted,
//! not time: a host that was itself suspended did not listen in that time.

use std::sync::{Arc, Weak};

use projector_core::failure::{Blocker, FailureKind};
use projector_store::Store;
use tokio::sync::watch;
use tokio::time::sleep;

use super::INTERVAL;
use crate::retry::Backoff;

/// Intervals without an answer until it is logged: 10 s.
const TOLD: u32 = 20;
/// Intervals without an answer until the store counts as silent: 15 s.
const SILENT: u32 = 30;

/// Runs for as long as the store is used. `failure`: why the last read of the control state failed.
pub(super) async fn watch(
    store: Weak<dyn Store>,
    failure: watch::Receiver<Option<Blocker>>,
    tell: watch::Sender<Option<Arc<str>>>,
    mut backoff: Backoff,
) {
    let (mut heard, mut unheard, mut failed) = (None, 0, 0);
    loop {
        sleep(INTERVAL).await;
        let Some(now) = store.upgrade().map(|store| store.heard()) else { return };
        let failure = failure.borrow().clone();
        let answers = now.is_none() || std::mem::replace(&mut heard, now) != now;
        unheard = if answers { 0 } else { unheard + 1 };
        failed = if failure.is_some() { failed + 1 } else { 0 };
        let trouble = match failure {
            _ if unheard < TOLD && failed < TOLD => {
                backoff.succeeded();
                tell.send_replace(None);
                continue;
            }
            None => Blocker::new(FailureKind::Database, "the database does not answer"),
            Some(Blocker { kind, reason }) if unheard >= TOLD => {
                Blocker::new(kind, format!("the database does not answer: {reason}"))
            }
            Some(Blocker { kind, reason }) => Blocker::new(
                kind,
                format!("the control state (operators' requests) cannot be read: {reason}"),
            ),
        };
        backoff.failed(trouble.kind, &trouble.reason);
        if unheard >= SILENT {
            tell.send_replace(Some(trouble.reason.into()));
        }
    }
}
