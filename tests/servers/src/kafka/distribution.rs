//! Where the broker's jars come from.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Need};

/// The newest release whose broker runs on Java 17, the one that Debian 12 has.
const VERSION: &str = "4.4.0";
const OLDEST_JAVA: u32 = 17;

const JAVA: Need = Need {
    what: "a Java runtime, version 17 or newer",
    debian_package: "default-jre-headless",
    is_met: || java_version().is_some_and(|version| version >= OLDEST_JAVA),
};
const MAVEN: Need = Need {
    what: "Apache Maven",
    debian_package: "maven",
    is_met: || packages::program_in_path("mvn").is_some(),
};

/// An Apache Kafka on this machine: a directory of jars, and a Java that runs them.
#[derive(Debug, Clone)]
pub struct KafkaDistribution {
    libs: PathBuf,
}

impl KafkaDistribution {
    /// The jars in the directory `PROJECTOR_KAFKA_DIST`, when that is set. Otherwise those in
    /// `target/servers/kafka-<version>/libs`, fetched from Maven Central the first time; several
    /// processes may ask at once.
    pub fn locate_or_install() -> Result<KafkaDistribution> {
        packages::ensure_installed(&[&JAVA])?;
        if let Some(libs) = env::var_os("PROJECTOR_KAFKA_DIST") {
            let libs = PathBuf::from(libs);
            ensure!(libs.is_dir(), "PROJECTOR_KAFKA_DIST: no directory {}", libs.display());
            return Ok(KafkaDistribution { libs });
        }
        KafkaDistribution::of_release(VERSION)
    }

    /// The jars of a certain release, fetched from Maven Central the first time.
    pub fn of_release(version: &str) -> Result<KafkaDistribution> {
        packages::ensure_installed(&[&JAVA])?;
        let home = servers_directory().join(format!("kafka-{version}"));
        let libs = home.join("libs");
        if !libs.is_dir() {
            fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
            let installing = File::create(home.join("lock"))?;
            installing.lock()?;
            if !libs.is_dir() {
                fetch(version, &home, &libs)?;
            }
        }
        Ok(KafkaDistribution { libs })
    }

    /// The directory of jars.
    pub fn libs(&self) -> &Path {
        &self.libs
    }

    /// Java with all jars on its class path, tuned to start fast and to stay small.
    pub(super) fn java(&self) -> Command {
        let mut java = Command::new(java_program());
        java.args(["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"])
            .arg("-cp")
            .arg(self.libs.join("*"));
        java
    }
}

/// `libs` appears whole or not at all.
fn fetch(version: &str, home: &Path, libs: &Path) -> Result<()> {
    packages::ensure_installed(&[&MAVEN])?;
    println!("fetching Apache Kafka {version} from Maven Central to {}", libs.display());
    let pom = home.join("pom.xml");
    fs::write(&pom, include_str!("pom.xml").replace("KAFKA_VERSION", version))?;
    let arriving = home.join("libs.arriving");
    if arriving.exists() {
        fs::remove_dir_all(&arriving)?;
    }
    let status = Command::new("mvn")
        .args(["--batch-mode", "--quiet", "-Dstyle.color=never", "--file"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", arriving.display()))
        .status()
        .context("cannot run mvn")?;
    ensure!(status.success(), "mvn dependency:copy-dependencies failed: {status}");
    fs::rename(&arriving, libs)?;
    Ok(())
}

/// `servers` in Cargo's target directory, which outlives a test run.
fn servers_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from)
        .join("servers")
}

fn java_program() -> PathBuf {
    env::var_os("JAVA_HOME")
        .map(|home| Path::new(&home).join("bin/java"))
        .filter(|java| packages::is_program(java))
        .unwrap_or_else(|| PathBuf::from("java"))
}

/// The major version, from a line like `openjdk version "17.0.15" 2025-04-15`.
fn java_version() -> Option<u32> {
    let output = Command::new(java_program()).arg("-version").output().ok()?;
    let banner = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = banner.split('"').nth(1)?;
    version.split(['.', '-', '+']).next()?.parse().ok()
}
