//! One running server: its process and its log.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::lifeline;

const POLL_INTERVAL: Duration = Duration::from_millis(20);
const LOG_TAIL_LINES: usize = 40;

/// Killed and reaped when dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`. `farewell` is what it is sent should
    /// this process end first.
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        log: &Path,
        farewell: Signal,
    ) -> Result<Process> {
        let out = append(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let program = command.get_program().to_owned();
        let child = lifeline::spawn(command, farewell)
            .with_context(|| format!("cannot start {name} ({})", program.display()))?;
        Ok(Process { name, child, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says yes. An early exit and a missed deadline are errors that carry the
    /// tail of the log.
    pub(crate) fn await_ready(&mut self, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended while starting: {status}\n{}", self.name, self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {patience:?}\n{}", self.name, self.log_tail());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Sends `signal`; a process that is gone already is no error.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            let pid = Pid::from_raw(i32::try_from(self.pid())?).context("a process id is never 0")?;
            kill_process(pid, signal)?;
        }
        Ok(())
    }

    /// Sends `signal` and waits for the end.
    pub(crate) fn end(mut self, signal: Signal, patience: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} runs on {patience:?} after {signal:?}\n{}", self.name, self.log_tail());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        format!("the end of {}:\n{}", self.log.display(), tail.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn append(log: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))
}
