//! Logs dead letters: the first one of each code at once, later ones as a number once a minute. Their keys, values and
//! reasons are data of the events, so they are not logged: they are only in the store.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use projector_core::event::Position;
use projector_core::generation::Generation;
use projector_store::DeadLetter;
use tokio::time::Instant;

/// How often the number of later dead letters is logged.
const INTERVAL: Duration = Duration::from_secs(60);
/// After this time without a dead letter of a code, the next one is logged as a first one again.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// For one run of a projection; shared by its lanes. Cheap to clone.
#[derive(Clone, Default)]
pub struct DeadLetterLog(Arc<Mutex<BTreeMap<String, Logged>>>);

/// What was logged for a code.
struct Logged {
    /// Dead letters that were not logged yet.
    more: u64,
    last: Position,
    at: Instant,
}

impl DeadLetterLog {
    /// Logs dead letters that were committed.
    pub fn committed(&self, generation: &Generation, dead: &[DeadLetter<'_>]) {
        if dead.is_empty() {
            return;
        }
        let mut codes = self.lock();
        for DeadLetter { event, failure, .. } in dead {
            let (last, at) = (event.position.clone(), Instant::now());
            match codes.get_mut(&failure.code) {
                Some(logged) => *logged = Logged { more: logged.more + 1, last, at },
                None => {
                    log_first(generation, &failure.code, failure.kind.as_str(), &last);
                    codes.insert(failure.code.clone(), Logged { more: 0, last, at });
                }
            }
        }
    }

    /// Logs the number of dead letters of each code that were not logged yet.
    pub fn log_more(&self, generation: &Generation) {
        let mut codes = self.lock();
        for (code, logged) in codes.iter_mut().filter(|(_, logged)| logged.more > 0) {
            let Position { partition, offset } = &logged.last;
            tracing::warn!(
                projection = generation.projection,
                generation = generation.number,
                code,
                events = std::mem::take(&mut logged.more),
                topic = &*partition.topic,
                partition = partition.number,
                offset,
                "more dead letters with this code; the position is the one of the last of them"
            );
        }
        codes.retain(|_, logged| logged.at.elapsed() < FORGET_AFTER);
    }

    /// Calls [`log_more`](Self::log_more) once a minute, for as long as the future is polled.
    pub async fn log_more_at_intervals(&self, generation: &Generation) -> Infallible {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.log_more(generation);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Logged>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_first(generation: &Generation, code: &str, kind: &str, Position { partition, offset }: &Position) {
    let projection = &*generation.projection;
    let advice = format!(
        "`projector dlq list {projection} --code {code}` lists the events with this code, and `projector dlq show {projection} NUMBER` shows one, why it failed, and what to do"
    );
    tracing::warn!(
        projection,
        generation = generation.number,
        code,
        kind,
        topic = &*partition.topic,
        partition = partition.number,
        offset,
        advice,
        "an event failed and became a dead letter; of further ones with this code, only the number is logged"
    );
}
