//! The hosts that use a store. Each host writes a heartbeat, by which others know that it is live.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

use crate::error::StoreError;

/// A host is live while its last heartbeat is younger than this. A deployment does not wait for other hosts.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// The hosts of a store.
#[async_trait]
pub trait HostStore: Send + Sync {
    /// Writes a host's heartbeat, and the ids that the host has as a member of consumer groups. An error if a migration
    /// removed something that this program may need.
    async fn heartbeat(&self, host: Uuid, name: &str, members: &[String]) -> Result<(), StoreError>;

    /// Removes a host that ends.
    async fn deregister(&self, host: Uuid) -> Result<(), StoreError>;

    /// The hosts that are live, by name.
    async fn live_hosts(&self) -> Result<Vec<LiveHost>, StoreError>;

    /// Every host that wrote a heartbeat in the last hour.
    async fn known_hosts(&self) -> Result<BTreeMap<Uuid, KnownHost>, StoreError>;
}

/// A host that is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LiveHost {
    pub name: String,
    /// The newest migration of the host's own tables that its program knows. 0: its version did not store this number.
    pub knows: i64,
}

from_row! { LiveHost { name, knows } }

/// A host as its database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHost {
    pub name: String,
    /// Whether its last heartbeat is younger than [`HEARTBEAT_TIMEOUT`].
    pub is_live: bool,
    /// The ids that it has as a member of consumer groups. `None`: its version does not store them.
    pub members: Option<BTreeSet<String>>,
}
