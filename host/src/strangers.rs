//! Strangers: members of a consumer group that are not hosts of the group's store.
//!
//! A copy of a database has the same store id, and so the same names of consumer groups. If hosts of two
//! databases share a group, each database misses the partitions of the other. For a physical copy, which
//! has the identity of its original, the group is the only sign. So a host joins a group only when all
//! members are hosts that its store knows, and leaves the group if strangers stay in it.
//!
//! A member may be unknown for a moment and yet be no stranger: a killed host's member until its session
//! expires, or a host that has just joined. So a host waits before it calls members strangers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use projector_kafka::{GroupMember, KafkaAdmin};
use projector_store::{Store, StoreError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often a host looks at a group that it waits to join.
const LOOK: Duration = Duration::from_millis(500);
/// How often a host looks at a group that it has joined.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Time beyond the session timeout before an unknown member is a stranger. A member of a killed host stays
/// until its session expires; a host whose database does not answer leaves its groups within this time.
const GRACE: Duration = Duration::from_secs(30);

/// A consumer group, and the store whose hosts may be its members.
pub struct Group<'a> {
    pub name: &'a str,
    pub store: &'a dyn Store,
    pub log: &'a KafkaAdmin,
    /// The session timeout: after this time, the broker removes a member whose host is gone.
    pub session: Duration,
}

impl Group<'_> {
    /// Called before the host joins: waits until all members are hosts of the store. Returns the reason not
    /// to join, if strangers stay in the group.
    ///
    /// If the brokers do not answer, the host may try to join:
    /// [`joined_by_strangers`](Self::joined_by_strangers) looks again.
    pub async fn until_no_strangers(&self, stop: &CancellationToken) -> Result<Option<String>, StoreError> {
        let asked = Instant::now();
        let mut told = false;
        while !stop.is_cancelled() {
            let Ok(members) = self.log.group_members(self.name).await else { return Ok(None) };
            let strangers = self.strangers(members).await?;
            if strangers.is_empty() {
                return Ok(None);
            }
            if asked.elapsed() > self.patience() {
                return Ok(Some(self.reason(&strangers)));
            }
            if !std::mem::replace(&mut told, true) {
                tracing::info!(
                    group = self.name,
                    members = list(&strangers),
                    "the consumer group has members that are not hosts of this database; this host joins when they have left"
                );
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(None)
    }

    /// Waits until strangers stay in the group. Returns the reason to leave it. Failed requests to the
    /// brokers or the store are repeated.
    pub async fn joined_by_strangers(&self) -> String {
        let mut since: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            sleep(LOOK_AGAIN).await;
            let Ok(members) = self.log.group_members(self.name).await else { continue };
            let Ok(strangers) = self.strangers(members).await else { continue };
            since.retain(|id, _| strangers.iter().any(|stranger| stranger.id == *id));
            for stranger in &strangers {
                since.entry(stranger.id.clone()).or_insert_with(Instant::now);
            }
            if since.values().any(|since| since.elapsed() > self.patience()) {
                return self.reason(&strangers);
            }
        }
    }

    fn patience(&self) -> Duration {
        self.session + GRACE
    }

    /// The members that are not live hosts of the store. Empty while a host is live that does not report
    /// its members, as older versions do: then its members cannot be told from strangers.
    async fn strangers(&self, mut members: Vec<GroupMember>) -> Result<Vec<GroupMember>, StoreError> {
        if members.is_empty() {
            return Ok(members);
        }
        let mut known = BTreeSet::new();
        for host in self.store.known_hosts().await?.into_values().filter(|host| host.is_live) {
            match host.members {
                Some(ids) => known.extend(ids),
                None => return Ok(Vec::new()),
            }
        }
        members.retain(|member| !known.contains(&member.id));
        Ok(members)
    }

    fn reason(&self, strangers: &[GroupMember]) -> String {
        format!(
            "the consumer group {} has members that are not hosts of this database: {}. Another database has the same store id: it is a copy of this one, or the original. If both used the group, each would miss partitions",
            self.name,
            list(strangers)
        )
    }
}

fn list(members: &[GroupMember]) -> String {
    let member = |GroupMember { client, host, partitions, .. }: &GroupMember| {
        let host = host.trim_start_matches('/');
        format!("{client} at {host} with {partitions} partitions")
    };
    members.iter().map(member).collect::<Vec<_>>().join(", ")
}
