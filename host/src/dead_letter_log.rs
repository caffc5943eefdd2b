//! Logs dead letters: the first of each code at once, later ones as a sum once a minute. Their details are
//! data, and are only in the store.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use projector_core::event::Position;
use projector_core::generation::Generation;
use projector_store::DeadLetter;
use tokio::time::Instant;

/// How often later dead letters are summed up.
const PACE: Duration = Duration::from_secs(60);
/// After this time without a dead letter of a code, the next one counts as the first again.
const QUIET: Duration = Duration::from_secs(300);

/// For one run of a projection; shared by its lanes. Cheap to clone.
#[derive(Clone, Default)]
pub struct DeadLetterLog(Arc<Mutex<BTreeMap<String, Told>>>);

/// What was logged for a code.
struct Told {
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
                Some(told) => *told = Told { more: told.more + 1, last, at },
                None => {
                    say_first(generation, &failure.code, failure.kind.as_str(), &last);
                    codes.insert(failure.code.clone(), Told { more: 0, last, at });
                }
            }
        }
    }

    /// Logs the number of dead letters since the last sum.
    pub fn sum_up(&self, generation: &Generation) {
        let mut codes = self.lock();
        for (code, told) in codes.iter_mut().filter(|(_, told)| told.more > 0) {
            let Position { partition, offset } = &told.last;
            tracing::warn!(
                projection = generation.projection,
                generation = generation.number,
                code,
                events = std::mem::take(&mut told.more),
                topic = &*partition.topic,
                partition = partition.number,
                offset,
                "more dead letters with this code; the position is that of the last one"
            );
        }
        codes.retain(|_, told| told.at.elapsed() < QUIET);
    }

    /// Calls [`sum_up`](Self::sum_up) once a minute, for as long as the future is polled.
    pub async fn keep_summing_up(&self, generation: &Generation) -> Infallible {
        loop {
            tokio::time::sleep(PACE).await;
            self.sum_up(generation);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say_first(generation: &Generation, code: &str, kind: &str, Position { partition, offset }: &Position) {
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
        "an event failed and became a dead letter; further ones with this code are logged as a sum"
    );
}
