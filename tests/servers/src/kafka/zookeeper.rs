//! The ZooKeeper that brokers before KRaft need.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::Path;

use anyhow::Result;
use rustix::process::Signal;

use super::settings::LOGGING;
use super::{KafkaDistribution, START_PATIENCE};
use crate::port;
use crate::process::Process;

/// Killed when dropped.
pub(super) struct ZooKeeper {
    _process: Process,
    port: u16,
}

impl ZooKeeper {
    /// From the jars of a Kafka, with its data below a directory.
    pub(super) fn start(distribution: &KafkaDistribution, directory: &Path) -> Result<ZooKeeper> {
        let port = port::free()?;
        let data = directory.join("zookeeper");
        fs::create_dir_all(&data)?;
        let settings = directory.join("zookeeper.properties");
        let lines = format!(
            "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\ntickTime=500\n",
            data.display()
        );
        fs::write(&settings, lines)?;
        let mut java = distribution.java();
        java.args(LOGGING).arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(&settings);
        let mut process = Process::start("ZooKeeper", java, &directory.join("zookeeper.log"), Signal::KILL)?;
        process.await_ready(START_PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(ZooKeeper { _process: process, port })
    }

    /// The broker's settings, without what only KRaft knows.
    pub(super) fn adapt(&self, properties: &mut BTreeMap<String, String>) {
        properties.retain(|name, _| !name.starts_with("controller.") && name != "process.roles");
        for name in ["listeners", "listener.security.protocol.map"] {
            if let Some(value) = properties.get_mut(name) {
                let kept: Vec<&str> =
                    value.split(',').filter(|part| !part.starts_with("CONTROLLER:")).collect();
                *value = kept.join(",");
            }
        }
        properties.remove("node.id");
        for (name, value) in [
            ("broker.id", "1".to_owned()),
            ("zookeeper.connect", format!("127.0.0.1:{}", self.port)),
            ("zookeeper.session.timeout.ms", "2000".to_owned()),
        ] {
            properties.insert(name.to_owned(), value);
        }
    }
}
