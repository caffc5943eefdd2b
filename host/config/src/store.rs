//! `[store]` and `[stores.NAME]`: the read-model databases.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::text::Text;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Store {
    /// `postgres://user:password@host/database` or `sqlite://path/relative/to/this/file.db`.
    pub url: Text,
    /// Postgres: the password, if it is not in the URL. A password from a file is read again for each new
    /// connection.
    pub password: Option<Text>,
    /// Postgres: most connections of one host. Three are for deployments, comparisons and catching up; the
    /// rest are for lanes and for operators' requests.
    #[serde(default = "twenty_connections")]
    pub connections: NonZeroU32,
    /// Postgres: how long a statement may run.
    #[serde(default = "thirty_seconds", with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Postgres: how long a statement may wait for a lock.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub lock_timeout: Duration,
    /// Postgres: how long a transaction may be idle before the server ends its session. So a host that
    /// hangs in a transaction holds its locks for at most this long.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub idle_in_transaction_timeout: Duration,
}

impl Store {
    /// The URL without role, password and parameters.
    pub fn shown(&self) -> String {
        let Some((scheme, rest)) = self.url.split_once("://") else { return "a store".into() };
        let place = rest.split_once('?').map_or(rest, |(place, _)| place);
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        format!("{scheme}://{place}")
    }

    /// Resolves the path of a SQLite file against the directory of the configuration file.
    pub(super) fn resolve(&mut self, base: &Path) {
        self.url = self.url.as_url_below(base);
    }
}

fn twenty_connections() -> NonZeroU32 {
    NonZeroU32::new(20).expect("it is not 0")
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}
