//! One configuration, and everything that it names: topics, plugins, a database. Hosts are started
//! from it, as many as a test likes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use projector_core::failure::{FailureKind, Response};
use projector_test_servers::Kafka;
use projector_workload::topics::Topic;
use projector_workload::{Publisher, Record, Workload, topics};
use tempfile::TempDir;
use toml::{Table, Value};
use uuid::Uuid;

use super::status::Status;
use super::{Host, HostLog, Projection, ReadModel, eventually, guests};

/// Every topic that one of the guests reads, by its logical name.
const LOGICAL_TOPICS: [&str; 7] = [
    projector_workload::ORDER_CONFIRMED,
    projector_workload::CUSTOMER_COUNTRY_CHANGED,
    projector_workload::CUSTOMER_PROFILE_UPDATED,
    "hostile.events.v1",
    "step.v1",
    "step.v2",
    "gate.v1",
];

/// The end of every history, so that a seed gives the same bytes on every day.
const NOW: Duration = Duration::from_secs(1_760_000_000);

/// Whether a host goes on by itself after a failure of this kind.
fn is_tried_again(kind: &str) -> bool {
    FailureKind::ALL.iter().any(|known| known.as_str() == kind && known.response() == Response::Retry)
}

pub(crate) struct Platform {
    brokers: String,
    plugins: Vec<&'static str>,
    read_model: ReadModel,
    /// Makes the topics' names unique: tests share a broker.
    topic_prefix: String,
    config: Table,
    /// Of every host and command: what `${NAME}` stands for in the configuration.
    environment: Vec<(String, String)>,
    logs: Mutex<Vec<Arc<HostLog>>>,
    /// Of hosts and commands.
    program: PathBuf,
    directory: TempDir,
}

impl Platform {
    /// On the Kafka that all tests share.
    pub(crate) fn new(name: &str, plugins: &[&'static str], read_model: ReadModel) -> Platform {
        Platform::on(Kafka::shared(), name, plugins, read_model)
    }

    /// On a Kafka of the test's own.
    pub(crate) fn on(brokers: &str, name: &str, plugins: &[&'static str], read_model: ReadModel) -> Platform {
        let directory = TempDir::with_prefix(format!("projector-{name}-")).unwrap();
        guests::install(plugins, &directory.path().join("plugins"));
        let mut platform = Platform {
            brokers: brokers.to_owned(),
            plugins: plugins.to_vec(),
            topic_prefix: format!("{name}-{}.", &Uuid::new_v4().simple().to_string()[..8]),
            config: Table::new(),
            environment: Vec::new(),
            logs: Mutex::default(),
            program: env!("CARGO_BIN_EXE_projector").into(),
            directory,
            read_model,
        }
        .set(&["kafka", "brokers"], brokers)
        .set(&["plugins", "directory"], "plugins");
        // The shortest session that a broker allows unless it is told otherwise: a test that kills
        // a host waits as long. The rest makes what a test waits for happen soon.
        for (property, value) in [
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "500"),
            ("topic.metadata.refresh.interval.ms", "1000"),
            ("fetch.wait.max.ms", "100"),
        ] {
            platform = platform.set(&["kafka", "properties", property], value);
        }
        for logical in LOGICAL_TOPICS {
            let physical = platform.topic(logical);
            platform = platform.set(&["kafka", "topics", logical], physical);
        }
        let url = platform.read_model.url_in(platform.directory.path());
        platform.set(&["store", "url"], url)
    }

    /// One value of the configuration, by the names of its tables and its key. Hosts that are
    /// started later see it.
    pub(crate) fn set(mut self, path: &[&str], value: impl Into<Value>) -> Platform {
        let (key, tables) = path.split_last().expect("a path has a key");
        let mut table = &mut self.config;
        for name in tables {
            let inner = table.entry(*name).or_insert_with(|| Value::Table(Table::new()));
            table = inner.as_table_mut().expect("it is a table");
        }
        table.insert((*key).to_owned(), value.into());
        self
    }

    /// What `${NAME}` stands for in the configuration.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Platform {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn config(&mut self) -> &mut Table {
        &mut self.config
    }

    /// Runs a copy of the program, which no build replaces while it runs for long.
    pub(crate) fn with_own_program(mut self) -> Platform {
        let own = self.directory.path().join("projector");
        fs::copy(&self.program, &own).unwrap();
        self.program = own;
        self
    }

    fn projector(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.environment.iter().cloned());
        command
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    pub(crate) fn read_model(&self) -> &ReadModel {
        &self.read_model
    }

    /// What lies beside the configuration.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The physical name of a topic.
    pub(crate) fn topic(&self, logical: &str) -> String {
        format!("{}{logical}", self.topic_prefix)
    }

    pub(crate) fn create_topics(&self, partitions: i32) {
        let made: Vec<Topic> = LOGICAL_TOPICS
            .iter()
            .map(|logical| Topic::new(self.topic(logical), partitions).setting("retention.ms", "-1"))
            .collect();
        topics::create(&self.brokers, &made).unwrap();
    }

    /// The shop's history of a seed, on this platform's topics.
    pub(crate) fn workload(&self, seed: u64, events: usize) -> Workload {
        let mut workload = Workload::new(seed, events, UNIX_EPOCH + NOW);
        workload.topic_prefix.clone_from(&self.topic_prefix);
        workload
    }

    /// Returns when the brokers have acknowledged all of them.
    pub(crate) fn publish(&self, records: &[Record]) {
        Publisher::new(&self.brokers).publish(records).unwrap();
    }

    pub(crate) fn start_host(&self, name: &str) -> Host {
        self.start_host_with(name, "")
    }

    /// With failpoints, as in `before-commit=kill@3`.
    pub(crate) fn start_host_with(&self, name: &str, failpoints: &str) -> Host {
        let config = self.write_config();
        let host = Host::start(name, self.projector(), &config, failpoints);
        self.logs.lock().unwrap().push(host.shared_log());
        host
    }

    /// A host of another build.
    pub(crate) fn start_host_of(&self, program: &Path, name: &str) -> Host {
        let mut command = Command::new(program);
        command.envs(self.environment.iter().cloned());
        let host = Host::start(name, command, &self.write_config(), "");
        self.logs.lock().unwrap().push(host.shared_log());
        host
    }

    /// What another build of `projector` prints as JSON, of a command that succeeds.
    #[track_caller]
    pub(crate) fn ask_of(&self, program: &Path, arguments: &[&str]) -> serde_json::Value {
        let mut command = Command::new(program);
        command.envs(self.environment.iter().cloned());
        command.args(arguments).args(["--output", "json", "--config"]).arg(self.write_config());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{} {arguments:?}: {output:?}", program.display());
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn write_config(&self) -> PathBuf {
        let file = self.directory.path().join("projector.toml");
        let next = file.with_extension("next");
        fs::write(&next, toml::to_string(&self.config).unwrap()).unwrap();
        fs::rename(&next, &file).unwrap();
        file
    }

    /// Runs `projector` with this configuration: its exit code, and what it printed, if that is JSON.
    pub(crate) fn command(&self, arguments: &[&str]) -> (i32, serde_json::Value, String) {
        self.command_at("", arguments)
    }

    /// The exit code of a command and what it says, on one line, however it broke its lines.
    pub(crate) fn says(&self, arguments: &[&str]) -> (i32, String) {
        let (code, _, said) = self.command(arguments);
        (code, said.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// With failpoints, as in `before-commit=kill@3`. Killed, it has no exit code: -1 stands for it.
    pub(crate) fn command_at(
        &self,
        failpoints: &str,
        arguments: &[&str],
    ) -> (i32, serde_json::Value, String) {
        let output = self
            .projector()
            .args(arguments)
            .env("PROJECTOR_FAILPOINTS", failpoints)
            .arg("--config")
            .arg(self.write_config())
            .output()
            .unwrap();
        let printed = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap_or(-1), printed, said)
    }

    /// With one value of the configuration for this command alone.
    pub(crate) fn command_with(
        &self,
        path: &[&str],
        value: impl Into<Value>,
        arguments: &[&str],
    ) -> (i32, serde_json::Value, String) {
        let (key, tables) = path.split_last().expect("a path has a key");
        let mut config = self.config.clone();
        let table = tables.iter().fold(&mut config, |table, name| {
            table.get_mut(*name).and_then(Value::as_table_mut).expect("the table is there")
        });
        table.insert((*key).to_owned(), value.into());
        let file = self.directory.path().join("spoilt.toml");
        fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_projector"))
            .args(arguments)
            .arg("--config")
            .arg(file)
            .output()
            .unwrap();
        let printed = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap_or(-1), printed, said)
    }

    /// Runs a command up to a failpoint that kills it, and makes sure that it was this one.
    #[track_caller]
    pub(crate) fn command_killed_at(&self, failpoint: &str, arguments: &[&str]) {
        let output = self
            .projector()
            .args(arguments)
            .arg("--config")
            .arg(self.write_config())
            .env("PROJECTOR_FAILPOINTS", format!("{failpoint}=kill@1"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code().is_none() && said.contains(&format!("failpoint {failpoint}:")),
            "projector {arguments:?} was not killed at {failpoint}: {said}"
        );
    }

    /// What `projector` prints as JSON, of a command that succeeds.
    #[track_caller]
    pub(crate) fn ask(&self, arguments: &[&str]) -> serde_json::Value {
        let (code, printed, said) = self.command(&[arguments, &["--output", "json"]].concat());
        assert_eq!(code, 0, "projector {arguments:?}: {said}");
        printed
    }

    /// What `projector status` prints, by projection; an error is what it complains of.
    pub(crate) fn status(&self) -> Result<BTreeMap<String, Projection>, String> {
        let output = self
            .projector()
            .args(["status", "--output", "json", "--config"])
            .arg(self.write_config())
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        let status: Status = serde_json::from_slice(&output.stdout).expect("the status is JSON");
        Ok(status.projections.into_iter().map(|projection| (projection.name.clone(), projection)).collect())
    }

    /// Waits until everything in the log is in the read models, as `projector status` says.
    #[track_caller]
    pub(crate) fn until_fresh(&self) -> BTreeMap<String, Projection> {
        eventually("all projections are fresh", || {
            let status = self.status()?;
            for name in &self.plugins {
                let projection = status.get(*name).ok_or_else(|| format!("{name} is not installed"))?;
                match &projection.halted {
                    // The host tries it again by itself.
                    Some(trouble) if is_tried_again(&trouble.kind) => {
                        return Err(format!("{name} waits: {trouble:?}"));
                    }
                    Some(trouble) => panic!("{name} stands still: {trouble:?}"),
                    None => {}
                }
                if !projection.fresh {
                    return Err(format!("{name}: {} events behind", projection.lag));
                }
            }
            Ok(status)
        })
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in self.logs.get_mut().unwrap().iter() {
                log.print_tail();
            }
        }
    }
}
