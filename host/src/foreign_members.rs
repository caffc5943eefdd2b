//! Foreign members: members of a consumer group that are not hosts of the group's database.
//!
//! A copy of a database has the same store id, and therefore the same names of consumer groups. If hosts of two
//! databases share a group, each database misses the events of the other's partitions. A physical copy even has the
//! identity of its original, so foreign members are the only sign of it. So a host joins a group only when all members
//! are hosts that its store knows, and leaves the group if foreign members stay in it.
//!
//! For a moment, a member may look foreign without being so: the member of a killed host until its session expires, or
//! a host that has just joined. So a host waits before it treats a member as foreign.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use projector_kafka::{GroupMember, KafkaAdmin};
use projector_store::{Store, StoreError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often a host checks the members of a group that it waits to join.
const CHECK_BEFORE_JOIN: Duration = Duration::from_millis(500);
/// How often a host checks the members of a group that it has joined.
const CHECK_AFTER_JOIN: Duration = Duration::from_secs(15);
/// An unknown member counts as foreign after the session timeout and this time. The member of a killed host stays in the
/// group until its session expires. A host whose database does not answer leaves its groups within this time.
const GRACE: Duration = Duration::from_secs(30);

/// A consumer group, and the store whose hosts may be its members.
pub struct Group<'a> {
    pub name: &'a str,
    pub store: &'a dyn Store,
    pub log: &'a KafkaAdmin,
    /// The session timeout: after this time without a heartbeat, the broker removes a member.
    pub session: Duration,
}

impl Group<'_> {
    /// Before the host joins the group: waits until all members are hosts of the store. Gives up when foreign members
    /// have stayed for too long, and returns the reason not to join.
    ///
    /// If the brokers do not answer, nothing is known about the members, and the host may join:
    /// [`wait_for_foreign`](Self::wait_for_foreign) checks them later.
    pub async fn wait_until_none_foreign(
        &self,
        stop: &CancellationToken,
    ) -> Result<Option<String>, StoreError> {
        let began = Instant::now();
        let mut logged = false;
        while !stop.is_cancelled() {
            let Ok(members) = self.log.group_members(self.name).await else { return Ok(None) };
            let foreign = self.foreign(members).await?;
            if foreign.is_empty() {
                return Ok(None);
            }
            if began.elapsed() > self.patience() {
                return Ok(Some(self.reason(&foreign)));
            }
            if !std::mem::replace(&mut logged, true) {
                tracing::info!(
                    group = self.name,
                    members = list(&foreign),
                    "the consumer group has members that are not hosts of this database; this host joins when they have left"
                );
            }
            tokio::select! {
                () = sleep(CHECK_BEFORE_JOIN) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(None)
    }

    /// After the host has joined: waits until a foreign member has been in the group for too long. Returns the reason to
    /// leave the group. A failed request to the brokers or the store is ignored until the next check.
    pub async fn wait_for_foreign(&self) -> String {
        let mut first_seen: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            sleep(CHECK_AFTER_JOIN).await;
            let Ok(members) = self.log.group_members(self.name).await else { continue };
            let Ok(foreign) = self.foreign(members).await else { continue };
            first_seen.retain(|id, _| foreign.iter().any(|member| member.id == *id));
            for member in &foreign {
                first_seen.entry(member.id.clone()).or_insert_with(Instant::now);
            }
            if first_seen.values().any(|since| since.elapsed() > self.patience()) {
                return self.reason(&foreign);
            }
        }
    }

    fn patience(&self) -> Duration {
        self.session + GRACE
    }

    /// The members that are not live hosts of the store.
    ///
    /// A host of an older version does not report the ids of its members. While such a host is live, nothing is
    /// returned: its members look like foreign ones.
    async fn foreign(&self, mut members: Vec<GroupMember>) -> Result<Vec<GroupMember>, StoreError> {
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

    fn reason(&self, foreign: &[GroupMember]) -> String {
        format!(
            "the consumer group {} has members that are not hosts of this database: {}. Another database has the same store id: it is a copy of this one, or the original. If hosts of both databases used the group, each database would miss the events of some partitions",
            self.name,
            list(foreign)
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
