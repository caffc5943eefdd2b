//! Members of a consumer group that are no hosts of its store.
//!
//! A copy of a database has the store's id, and with it the names of the consumer groups. Two databases whose hosts
//! share a group both miss partitions, and nothing else tells it where the copy is a physical one, which has the
//! identity of its original. So a host joins a group only once all members are hosts that its store knows, and
//! leaves it when others stay in it.
//!
//! A member may be unknown for a moment without being a stranger: of a host that was killed, until its session
//! expires, or that has just joined. So members are waited for before they are called strangers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::source::{GroupMember, KafkaAdmin};
use crate::store::{Store, StoreError};

/// How often members are looked at that keep a host from joining.
const LOOK: Duration = Duration::from_millis(500);
/// How often a group is looked at that a host has joined.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// A member of a host that is gone for good stays in a group until its session expires. A host whose database does
/// not answer leaves its groups within this time more.
const GRACE: Duration = Duration::from_secs(30);

/// A consumer group, and the store whose hosts are to be its members.
pub struct Group<'a> {
    pub name: &'a str,
    pub store: &'a dyn Store,
    pub log: &'a KafkaAdmin,
    /// After so long a member without a host is gone.
    pub session: Duration,
}

impl Group<'_> {
    /// Before the group is joined: waits until all members are hosts of the store. Returns why it is not to be
    /// joined, if others stay in it.
    ///
    /// Brokers that do not answer keep nobody from trying to join: [`joined_by_strangers`](Self::joined_by_strangers)
    /// looks again.
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
                    "the consumer group has members that are no hosts of this database: it is joined once they have left"
                );
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(None)
    }

    /// Waits until strangers stay in the group. Returns why it is to be left. What cannot be asked now is asked
    /// again.
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

    /// The members that are no live hosts of the store. None is one while a host is live that does not tell which
    /// members it is: a version before this one.
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
            "the consumer group {} has members that are no hosts of this database: {}. Another database has the same store id, as a copy or the original of this one, and both would miss partitions",
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
