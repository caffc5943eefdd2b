//! The real host, as a process of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::progress::Progress;
use crate::status::{Projection, Status};

const FRESH_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(15);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// `projector run`; killed when dropped.
pub(crate) struct Host {
    process: Child,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

/// A projection that became fresh, and how long that took.
pub(crate) struct Projected {
    pub(crate) projection: Projection,
    /// From the last look that saw no event read to the first that saw the projection fresh.
    pub(crate) took: Duration,
}

impl Host {
    pub(crate) fn start(program: &Path, config: &Path, log: &Path) -> Result<Host> {
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let process = Command::new(program)
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        Ok(Host { process, program: program.into(), config: config.into(), log: log.into() })
    }

    /// Asks `projector status` again and again, until all of `projections` are fresh. `events` is
    /// how many there are in all topics.
    pub(crate) fn run_until_fresh(&mut self, projections: &[&str], events: usize) -> Result<Vec<Projected>> {
        let progress = Progress::new("projected", events * projections.len());
        let started = Instant::now();
        let mut idle_until: BTreeMap<String, Instant> = BTreeMap::new();
        let mut fresh: BTreeMap<String, Projected> = BTreeMap::new();
        while fresh.len() < projections.len() {
            thread::sleep(LOOK_INTERVAL);
            let looked_at = Instant::now();
            let status = match self.status() {
                Ok(status) => status,
                Err(reason) => {
                    self.bear_with(started, &format!("{reason:#}"))?;
                    continue;
                }
            };
            let read: u64 = status.projections.iter().map(|projection| projection.counters.read).sum();
            progress.reach(usize::try_from(read)?);
            for projection in status.projections {
                let name = projection.name.clone();
                if let Some(reason) = projection.halted {
                    bail!("{name} stands still: {reason}\n{}", self.log());
                }
                if projection.counters.read == 0 {
                    idle_until.insert(name, looked_at);
                } else if projection.fresh && projections.contains(&name.as_str()) {
                    let took = idle_until.get(&name).unwrap_or(&started).elapsed();
                    fresh.entry(name).or_insert(Projected { projection, took });
                }
            }
            self.bear_with(started, &format!("{read} events were read"))?;
        }
        progress.finish();
        Ok(fresh.into_values().collect())
    }

    /// SIGTERM. What is in flight is finished or rolled back; the host then ends with exit code 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.process.id())?).context("a process id is never 0")?;
        kill_process(pid, Signal::TERM)?;
        let asked = Instant::now();
        loop {
            if let Some(exit) = self.process.try_wait()? {
                ensure!(exit.success(), "the host was asked to stop and ended with {exit}\n{}", self.log());
                return Ok(());
            }
            ensure!(
                asked.elapsed() < STOP_PATIENCE,
                "the host runs on {STOP_PATIENCE:?} after SIGTERM\n{}",
                self.log()
            );
            thread::sleep(LOOK_INTERVAL);
        }
    }

    fn status(&self) -> Result<Status> {
        let output = Command::new(&self.program)
            .args(["status", "--output", "json", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "projector status: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout).context("projector status prints something else than expected")
    }

    /// An error once the host has ended, or has had its time.
    fn bear_with(&mut self, started: Instant, last_seen: &str) -> Result<()> {
        if let Some(exit) = self.process.try_wait()? {
            bail!("the host ended: {exit}\n{}", self.log());
        }
        ensure!(
            started.elapsed() < FRESH_PATIENCE,
            "not fresh after {FRESH_PATIENCE:?}; last seen: {last_seen}\n{}",
            self.log()
        );
        Ok(())
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        format!("{}:\n{}", self.log.display(), log.trim_end())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
