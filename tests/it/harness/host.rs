//! `projector run`, as a process that can be stopped, killed and continued.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use projector_test_servers::lifeline;
use rustix::process::{Pid, Signal, kill_process};

use super::{HostLog, Plugins, eventually};

/// Killed when dropped.
pub(crate) struct Host {
    name: String,
    process: Child,
    log: Arc<HostLog>,
}

impl Host {
    /// `failpoints` as in the host's `failpoint`: `before-commit=kill@3`.
    pub(super) fn start(name: &str, mut command: Command, config: &Path, failpoints: &str) -> Host {
        command
            .args([
                "run",
                "--log-format",
                "json",
                "--log",
                "info,projector=debug,projector_kafka=debug",
                "--config",
            ])
            .arg(config)
            .env("PROJECTOR_FAILPOINTS", failpoints)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = lifeline::spawn(command, Signal::KILL).unwrap();
        let log = HostLog::collect(format!("host {name}"), process.stderr.take().expect("it is piped"));
        Host { name: name.to_owned(), process, log }
    }

    /// A host that no broker answers, with a SQLite database in its plugin directory. `settings` are further
    /// tables of its configuration.
    pub(crate) fn without_brokers(name: &str, plugins: &Plugins, settings: &str) -> Host {
        Self::start(
            name,
            Command::new(env!("CARGO_BIN_EXE_projector")),
            &Self::lone_config(plugins, settings),
            "",
        )
    }

    /// The same with so many file descriptors at most.
    pub(crate) fn with_few_descriptors(name: &str, plugins: &Plugins, settings: &str, most: u32) -> Host {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")]);
        command.arg(env!("CARGO_BIN_EXE_projector"));
        Self::start(name, command, &Self::lone_config(plugins, settings), "")
    }

    fn lone_config(plugins: &Plugins, settings: &str) -> PathBuf {
        let config = plugins.directory().join("projector.toml");
        let text = format!(
            "[kafka]\nbrokers = \"127.0.0.1:1\"\n[plugins]\ndirectory = \".\"\n[store]\nurl = \"sqlite://rm.db\"\n{settings}"
        );
        std::fs::write(&config, text).unwrap();
        config
    }

    /// How many file descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// How many threads it has.
    pub(crate) fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap().count()
    }

    /// The memory that it holds now, in bytes, as the kernel says.
    pub(crate) fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// The most memory that it ever held, in bytes, as the kernel says.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let bytes = status.lines().find_map(|line| line.strip_prefix(what)).expect("Linux says it");
        bytes.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
    }

    pub(crate) fn log(&self) -> &HostLog {
        &self.log
    }

    pub(super) fn shared_log(&self) -> Arc<HostLog> {
        self.log.clone()
    }

    /// The consumer group of a projection; waits until it runs.
    pub(crate) fn group(&self, projection: &str) -> String {
        let runs = |line: &super::host_log::Line| {
            line.message() == "projection runs" && line.field("projection") == projection
        };
        self.log.wait_for(&format!("that {projection} runs"), runs).field("group").to_owned()
    }

    /// SIGTERM: it must end with exit code 0. Its log is complete then.
    #[track_caller]
    pub(crate) fn sigterm(mut self) -> Arc<HostLog> {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "host {} was asked to stop and ended with {status}", self.name);
        self.log.all_lines();
        self.log.clone()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Waits until a failpoint has killed it, and makes sure that it was this one.
    #[track_caller]
    pub(crate) fn until_killed_at(mut self, failpoint: &str) {
        let status = self.wait();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "host {} ended with {status}", self.name);
        let said = format!("failpoint {failpoint}:");
        let lines = self.log.all_lines();
        assert!(
            lines.iter().any(|line| line.text.starts_with(&said)),
            "host {} was not killed by its failpoint",
            self.name
        );
    }

    /// Waits until a failpoint has stopped it.
    #[track_caller]
    pub(crate) fn until_stopped_at(&self, failpoint: &str) {
        let said = format!("failpoint {failpoint}:");
        self.log.wait_for(&format!("failpoint {failpoint}"), |line| line.text.starts_with(&said));
        eventually("the process stops", || if self.is_stopped() { Ok(()) } else { Err("it runs") });
    }

    /// By SIGSTOP, as the kernel says.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Returns at once.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id() as i32).expect("a process id is never 0");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("host {}: {signal:?}: {error}", self.name));
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let process = &mut self.process;
        eventually(&format!("host {} ends", self.name), || process.try_wait().unwrap().ok_or("it runs"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
