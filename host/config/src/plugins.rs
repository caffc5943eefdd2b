//! `[plugins]`: where plugins are, and which of them may run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use minisign_verify::PublicKey;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::text::Text;

/// The default name of the lock file.
const LOCK: &str = "plugins.lock";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Plugins {
    /// The directory whose `.wasm` files are projections, relative to the configuration file.
    pub directory: PathBuf,
    /// How often the host scans the directory, even without a notification of a change.
    #[serde(default = "thirty_seconds", with = "humantime_serde")]
    pub rescan: Duration,
    /// The lock file: the components that may run. Relative to the configuration file. Default:
    /// `plugins.lock` beside the configuration file, if that file exists when the host starts.
    pub lock: Option<PathBuf>,
    /// Teams that may sign components, by name. If there is a team, every component must be signed.
    #[serde(default)]
    pub teams: BTreeMap<String, Team>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Team {
    /// The team's minisign public key.
    #[serde(deserialize_with = "public_key")]
    pub key: PublicKey,
    /// The projections that the team may sign. Default: all.
    pub projections: Option<Vec<Text>>,
}

impl Plugins {
    /// Resolves relative paths against the directory of the configuration file, and looks there for a lock
    /// file if none is named.
    pub(super) fn resolve(&mut self, base: &Path) {
        self.directory = base.join(&self.directory);
        self.lock = match self.lock.take() {
            Some(named) => Some(base.join(named)),
            // If the lock file cannot be checked here, the error is reported when it is read.
            None => Some(base.join(LOCK)).filter(|lock| {
                let found = std::fs::symlink_metadata(lock);
                !found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
            }),
        };
    }
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

/// Reads a public key: the line of a `minisign.pub` that begins with `RW`.
fn public_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
    let key = Text::deserialize(deserializer)?;
    PublicKey::from_base64(&key).map_err(|_| {
        D::Error::custom(
            "this is not a minisign public key: write the line of minisign.pub that begins with RW",
        )
    })
}
