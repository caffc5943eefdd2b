//! One run: a contender, from its start to the last event's commit.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::feed::Feed;
use crate::process::{Process, Usage};
use crate::progress::Progress;
use crate::read_model::ReadModel;

/// How exact the times are; the check costs Postgres next to nothing.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// A contender that commits nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// With less than this in the topics, a paced contender may have had to wait for events.
const ENOUGH: u64 = 1_000;

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measurement {
    /// Those after the first commit that was seen, by the time from then to the last commit. So the
    /// start, the joining of the group and the first, cold batch do not count.
    pub(crate) events_per_second: f64,
    /// Of the contender's process alone, from its start on, by all events.
    pub(crate) cpu_us_per_event: f64,
    /// The peak, in MB of a million bytes.
    pub(crate) rss_mb: f64,
    /// `None` if the contender does not count them.
    pub(crate) statements_per_batch: Option<f64>,
    /// Likewise.
    pub(crate) reads_per_batch: Option<f64>,
    pub(crate) events_per_batch: f64,
    /// The longest time in ms without a commit, after the first.
    pub(crate) longest_pause_ms: f64,
    /// The part of the looks, from 0 to 1, that found too few events published to be sure that the
    /// contender had enough to do.
    pub(crate) starved: f64,
}

/// Waits until `events` are committed, and stops the contender.
pub(crate) fn measure(
    mut process: Process,
    read_model: &mut ReadModel,
    mut feed: Option<Feed>,
    events: u64,
    progress: &Progress,
) -> Result<Measurement> {
    let mut first: Option<(Instant, u64)> = None;
    let mut last = (Instant::now(), 0);
    let (mut looks, mut meagre_looks, mut longest_pause) = (0u32, 0u32, Duration::ZERO);
    loop {
        process.ensure_alive()?;
        let committed = read_model.committed()?;
        let now = Instant::now();
        let waiting = feed.as_mut().map(|feed| feed.committed(committed)).transpose()?;
        progress.reach(committed);
        if committed > 0 && first.is_none() {
            first = Some((now, committed));
        }
        if committed != last.1 {
            if first.is_some_and(|first| first.0 < now) {
                longest_pause = longest_pause.max(now.duration_since(last.0));
            }
            last = (now, committed);
        }
        if committed >= events {
            break;
        }
        if first.is_some() && events - committed > ENOUGH {
            looks += 1;
            meagre_looks += u32::from(waiting.is_some_and(|waiting| waiting < ENOUGH));
        }
        if last.0.elapsed() > PATIENCE {
            bail!("{committed} of {events} events, and none more for {PATIENCE:?}\n{}", process.log_tail());
        }
        thread::sleep(LOOK_INTERVAL);
    }
    let Usage { cpu, rss_mb } = process.usage()?;
    drop(feed);
    let tally = process.stop()?;
    ensure!(
        last.1 == events && tally.events == events,
        "{} offsets were committed and {} events counted, but {events} were published",
        last.1,
        tally.events
    );
    let (began, before) = first.context("nothing was committed")?;
    let took = last.0.duration_since(began);
    ensure!(!took.is_zero(), "all events were committed at once: too few of them to measure anything");
    let batches = tally.batches.max(1) as f64;
    Ok(Measurement {
        events_per_second: (events - before) as f64 / took.as_secs_f64(),
        cpu_us_per_event: cpu.as_secs_f64() * 1e6 / events as f64,
        rss_mb,
        statements_per_batch: tally.statements.map(|statements| statements as f64 / batches),
        reads_per_batch: tally.reads.map(|reads| reads as f64 / batches),
        events_per_batch: events as f64 / batches,
        longest_pause_ms: longest_pause.as_secs_f64() * 1e3,
        starved: f64::from(meagre_looks) / f64::from(looks.max(1)),
    })
}
