//! A contender's process, and what the kernel says of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use projector_test_servers::lifeline;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

const STOP_PATIENCE: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const TAIL_LINES: usize = 30;

/// The unit of times in `/proc`: Linux shows it as 1/100 s, whatever its own clock does.
const TICK: Duration = Duration::from_millis(10);

/// What the host says at the end of a lane; the program without a host prints the same counts.
const LAST_LINE: &str = "projection stopped";

/// Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    /// The projection whose counts are wanted. `None` for the program without a host, which has no projections.
    projection: Option<&'static str>,
}

/// What a process has used up so far, its children not counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// In user and kernel mode, of all threads.
    pub(crate) cpu: Duration,
    /// The most memory that it ever held, in MB of a million bytes.
    pub(crate) rss_mb: f64,
}

/// What a process says that it did.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub(crate) struct Tally {
    pub(crate) batches: u64,
    pub(crate) events: u64,
    /// Statements that wrote the read model's rows. A host may not count them.
    pub(crate) statements: Option<u64>,
    /// Times that it read rows. The program without a host has no need to.
    pub(crate) reads: Option<u64>,
}

impl Process {
    /// Starts `command` with its output in the file `log`. It dies with this process at the latest.
    pub(crate) fn start(
        mut command: Command,
        log: &Path,
        projection: Option<&'static str>,
    ) -> Result<Process> {
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let program = command.get_program().to_owned();
        let child = lifeline::spawn(command, Signal::KILL)
            .with_context(|| format!("cannot run {}", Path::new(&program).display()))?;
        Ok(Process { child, log: log.to_owned(), projection })
    }

    /// That it has ended is an error, with the end of its log.
    pub(crate) fn ensure_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it ended: {status}\n{}", self.log_tail());
        }
        Ok(())
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let read = |name: &str| {
            fs::read_to_string(process.join(name)).with_context(|| format!("{}/{name}", process.display()))
        };
        let cpu = cpu_ticks(&read("stat")?).context("/proc/…/stat has no times")?;
        let peak_kib = peak_kib(&read("status")?).context("/proc/…/status has no VmHWM")?;
        Ok(Usage { cpu: TICK * cpu, rss_mb: peak_kib as f64 * 1024.0 / 1e6 })
    }

    /// SIGTERM. It has to end with exit code 0, and to say what it did.
    pub(crate) fn stop(mut self) -> Result<Tally> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id is never 0")?;
        kill_process(pid, Signal::TERM)?;
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(
                asked.elapsed() < STOP_PATIENCE,
                "it runs on {STOP_PATIENCE:?} after SIGTERM\n{}",
                self.log_tail()
            );
            thread::sleep(LOOK_INTERVAL);
        };
        ensure!(status.success(), "it was asked to stop and ended with {status}\n{}", self.log_tail());
        let log = fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?;
        tally(&log, self.projection)
            .with_context(|| format!("it does not say what it did\n{}", self.log_tail()))
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("the end of {}:\n{}", self.log.display(), tail.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and kernel time. The program's name, in brackets, may hold anything.
fn cpu_ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|field| field.parse::<u32>().ok());
    times.next()??.checked_add(times.next()??)
}

fn peak_kib(status: &str) -> Option<u64> {
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The sum over a projection's lanes, or the counts of the program without a host.
fn tally(log: &str, projection: Option<&str>) -> Option<Tally> {
    let counts = |line: &str| {
        let json: serde_json::Value = serde_json::from_str(line).ok()?;
        let said = json.get("message").is_none_or(|message| message == LAST_LINE)
            && json.get("projection").and_then(serde_json::Value::as_str) == projection;
        said.then(|| serde_json::from_value::<Tally>(json).ok())?
    };
    log.lines().filter_map(counts).reduce(|sum, lane| Tally {
        batches: sum.batches + lane.batches,
        events: sum.events + lane.events,
        statements: sum.statements.zip(lane.statements).map(|(sum, lane)| sum + lane),
        reads: sum.reads.zip(lane.reads).map(|(sum, lane)| sum + lane),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_name_with_brackets() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 4 0 100 1000 10";
        assert_eq!(cpu_ticks(stat), Some(300));
    }

    #[test]
    fn lanes_are_added_up_and_other_lines_ignored() {
        let log = concat!(
            "not json\n",
            "{\"message\":\"projection runs\",\"projection\":\"p\",\"batches\":9,\"events\":9}\n",
            "{\"message\":\"projection stopped\",\"projection\":\"p\",\"batches\":2,\"events\":5,\"statements\":3}\n",
            "{\"message\":\"projection stopped\",\"projection\":\"other\",\"batches\":7,\"events\":7}\n",
            "{\"message\":\"projection stopped\",\"projection\":\"p\",\"batches\":1,\"events\":1,\"statements\":1}\n",
        );
        let tally = tally(log, Some("p")).unwrap();
        assert_eq!((tally.batches, tally.events, tally.statements), (3, 6, Some(4)));
    }

    #[test]
    fn a_host_need_not_count_statements() {
        let log = "{\"message\":\"projection stopped\",\"batches\":2,\"events\":5}\n";
        assert_eq!(tally(log, None).unwrap().statements, None);
    }
}
