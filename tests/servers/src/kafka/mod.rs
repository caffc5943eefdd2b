//! A single-node Apache Kafka in KRaft mode, or of a release before it with its ZooKeeper.

mod authority;
mod distribution;
mod handshake;
#[cfg(feature = "secured")]
mod rights;
#[cfg(feature = "secured")]
mod secured;
mod settings;
mod zookeeper;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;

pub use authority::{Authority, ClientCertificate};
pub use distribution::KafkaDistribution;
#[cfg(feature = "secured")]
pub use rights::{Resource, Right};
#[cfg(feature = "secured")]
pub use secured::{Listener, SecuredKafka, User, token};

use crate::directory::ServerDirectory;
use crate::port;
use crate::process::Process;
use zookeeper::ZooKeeper;

const START_PATIENCE: Duration = Duration::from_secs(90);
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A broker that is its own controller, on loopback, without authentication.
///
/// Nothing expires in it (records may carry old timestamps), topics are not created by accident,
/// and what a production broker does every few seconds or minutes (compaction, retention, ending
/// transactions that timed out) it does within a second.
pub struct Kafka {
    process: Option<Process>,
    distribution: KafkaDistribution,
    port: u16,
    /// Of the controller of its cluster, which may be another broker's.
    controller_port: u16,
    /// Listeners beside the plain one.
    further: Vec<settings::Further>,
    /// 1 is the controller.
    node: u32,
    cluster_id: String,
    settings: Vec<(String, String)>,
    /// Of a release that needs one. It runs until the value is dropped.
    zookeeper: Option<ZooKeeper>,
    /// Last, so that the process is gone before its directory is removed.
    directory: ServerDirectory,
}

impl Kafka {
    /// Starts a broker with an empty log; returns when it serves.
    pub fn start() -> Result<Kafka> {
        Kafka::start_with(&[])
    }

    /// Like [`Kafka::start`], with broker settings beside or instead of those that this crate chose.
    pub fn start_with(settings: &[(&str, &str)]) -> Result<Kafka> {
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Kafka::start_listening(ServerDirectory::create("kafka")?, Vec::new(), settings)
    }

    /// A broker of an older release: `3.9.1`, say. One before 3 is started with a ZooKeeper.
    pub fn start_release(version: &str) -> Result<Kafka> {
        let distribution = KafkaDistribution::of_release(version)?;
        let directory = ServerDirectory::create("kafka")?;
        let zookeeper = match version.split('.').next() {
            Some("2") => Some(ZooKeeper::start(&distribution, directory.path())?),
            _ => None,
        };
        let mut kafka = Kafka {
            process: None,
            distribution,
            port: port::free()?,
            controller_port: port::free()?,
            node: 1,
            cluster_id: settings::new_cluster_id()?,
            further: Vec::new(),
            settings: Vec::new(),
            zookeeper,
            directory,
        };
        kafka.format()?;
        kafka.launch()?;
        Ok(kafka)
    }

    /// With listeners beside the plain one.
    fn start_listening(
        directory: ServerDirectory,
        further: Vec<settings::Further>,
        settings: Vec<(String, String)>,
    ) -> Result<Kafka> {
        let mut kafka = Kafka {
            process: None,
            distribution: KafkaDistribution::locate_or_install()?,
            port: port::free()?,
            controller_port: port::free()?,
            node: 1,
            cluster_id: settings::new_cluster_id()?,
            further,
            settings,
            zookeeper: None,
            directory,
        };
        kafka.format()?;
        kafka.launch()?;
        Ok(kafka)
    }

    /// Starts one more broker in this cluster, under a number of its own (2, 3 …). This one stays the
    /// controller.
    pub fn join(&self, node: u32) -> Result<Kafka> {
        let mut joined = Kafka {
            process: None,
            distribution: self.distribution.clone(),
            port: port::free()?,
            controller_port: self.controller_port,
            node,
            cluster_id: self.cluster_id.clone(),
            further: Vec::new(),
            settings: self.settings.clone(),
            zookeeper: None,
            directory: ServerDirectory::create("kafka")?,
        };
        joined.format()?;
        joined.launch()?;
        Ok(joined)
    }

    /// The bootstrap servers of a broker that several tests share: those in `KAFKA_BROKERS` when
    /// that is set, otherwise a broker started for this process at the first call. Topics and groups
    /// need names of their own there.
    ///
    /// # Panics
    /// When no broker can be had.
    pub fn shared() -> &'static str {
        static SHARED: OnceLock<(String, Option<Kafka>)> = OnceLock::new();
        let (bootstrap, _) = SHARED.get_or_init(|| match env::var("KAFKA_BROKERS") {
            Ok(brokers) => (brokers, None),
            Err(_) => match Kafka::start() {
                Ok(kafka) => (kafka.bootstrap(), Some(kafka)),
                Err(error) => panic!("no Kafka for this test: {error:#}"),
            },
        });
        bootstrap
    }

    /// `host:port`, the same for as long as the value lives.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id, unless the broker is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// SIGKILL: nothing is written any more, no client is told. What was acknowledged is in the
    /// page cache and survives.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// An orderly stop.
    pub fn stop(&mut self) -> Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        process.end(Signal::TERM, STOP_PATIENCE)?;
        Ok(())
    }

    /// Starts the broker again with its data, on its port; kills it before, if it still runs.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch()
    }

    /// Another cluster behind the same address: the data is gone and the cluster id is a new one.
    pub fn replace(&mut self) -> Result<()> {
        self.kill();
        fs::remove_dir_all(self.data())?;
        self.cluster_id = settings::new_cluster_id()?;
        self.format()?;
        self.launch()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn settings_file(&self) -> PathBuf {
        self.directory.path().join("server.properties")
    }

    /// Writes the settings and gives the empty log directory a cluster id.
    fn format(&self) -> Result<()> {
        let mut properties = settings::listeners(self.port, self.controller_port, &self.further);
        properties.extend(settings::FIXED.map(|(name, value)| (name.to_owned(), value.to_owned())));
        if self.node != 1 {
            properties.extend(settings::joining(self.node, self.port));
        }
        properties.insert("log.dirs".to_owned(), self.data().display().to_string());
        if let Some(zookeeper) = &self.zookeeper {
            zookeeper.adapt(&mut properties);
        }
        properties.extend(self.settings.iter().cloned());
        let lines: String = properties.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(self.settings_file(), lines)?;
        if self.zookeeper.is_some() {
            return Ok(());
        }

        let output = self
            .distribution
            .java()
            .args(["kafka.tools.StorageTool", "format", "--cluster-id", &self.cluster_id])
            .arg("--config")
            .arg(self.settings_file())
            .output()?;
        ensure!(
            output.status.success(),
            "Kafka's log directory cannot be formatted: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn launch(&mut self) -> Result<()> {
        let mut java = self.distribution.java();
        java.args(settings::LOGGING).arg("kafka.Kafka").arg(self.settings_file());
        let log = self.directory.path().join("kafka.log");
        let mut process = Process::start("Kafka", java, &log, Signal::KILL)?;
        process.await_ready(START_PATIENCE, || handshake::answers(self.port))?;
        self.process = Some(process);
        Ok(())
    }
}
