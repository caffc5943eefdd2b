//! Publishes while a contender consumes, never far ahead of what it has committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow, bail};
use projector_workload::{Publisher, Record};

/// So many events are published before anything is committed: what lies there when the contender
/// arrives is not mixed (see [`crate::workload::Delivery`]).
const APPETIZER: u64 = 100;

/// Ends its publishing when dropped.
pub(crate) struct Feed {
    gauge: Arc<Gauge>,
    publishing: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Gauge {
    committed: AtomicU64,
    delivered: AtomicU64,
    ended: AtomicBool,
}

impl Feed {
    /// Publishes `records` so that about `behind` of them are not committed yet.
    pub(crate) fn start(brokers: &str, records: Vec<Record>, behind: u64) -> Feed {
        let gauge = Arc::new(Gauge::default());
        let (seen, brokers) = (gauge.clone(), brokers.to_owned());
        let publishing = thread::spawn(move || {
            let pace = |index: usize| {
                if seen.ended.load(Ordering::Relaxed) {
                    bail!("the run ended before everything was published");
                }
                let committed = seen.committed.load(Ordering::Relaxed);
                let ahead = if committed == 0 { APPETIZER } else { committed + behind };
                Ok((index as u64) < ahead)
            };
            Publisher::new(&brokers)
                .property("linger.ms", "5")
                .pace(pace)
                .progress(|count| seen.delivered.store(count as u64, Ordering::Relaxed))
                .publish(&records)?;
            Ok(())
        });
        Feed { gauge, publishing: Some(publishing) }
    }

    /// Tells how many events are committed. Returns how many are in the topics and are not; an error
    /// if the publishing failed.
    pub(crate) fn committed(&mut self, committed: u64) -> Result<u64> {
        self.gauge.committed.store(committed, Ordering::Relaxed);
        if let Some(ended) = self.publishing.take_if(|publishing| publishing.is_finished()) {
            ended.join().map_err(|_| anyhow!("the publishing thread panicked"))??;
        }
        Ok(self.gauge.delivered.load(Ordering::Relaxed).saturating_sub(committed))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.gauge.ended.store(true, Ordering::Relaxed);
        if let Some(publishing) = self.publishing.take() {
            let _ = publishing.join();
        }
    }
}
