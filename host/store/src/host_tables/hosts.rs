//! The heartbeats of hosts.

use std::collections::BTreeMap;

use async_trait::async_trait;
use uuid::Uuid;

use super::{Database, Session};
use crate::error::StoreError;
use crate::hosts::{HEARTBEAT_TIMEOUT, HostStore, KnownHost, LiveHost};

/// A host without a heartbeat for this long is forgotten.
const FORGOTTEN_AFTER_SECONDS: i64 = 3_600;

#[async_trait]
impl<D: Database> HostStore for D {
    async fn heartbeat(&self, host: Uuid, name: &str, members: &[String]) -> Result<(), StoreError> {
        let knows = self.known_migration();
        let members = serde_json::json!(members).to_string();
        let mut session = self.acquire().await?;
        let seen = session
            .execute(
                "update projector.host set seen_at = now(), member_ids = $2, knows = $3
                 where id = $1 and $3 >= (select needs from projector.store)",
                &[host.into(), members.as_str().into(), knows.into()],
            )
            .await?;
        if seen > 0 {
            return Ok(());
        }
        // Hosts that ended without deregistering. No deployment waits for them.
        let delete = format!(
            "delete from projector.host where seen_at < {}",
            D::Connection::seconds_ago(&FORGOTTEN_AFTER_SECONDS.to_string())
        );
        session.execute(&delete, &[]).await?;
        let added = session
            .execute(
                "insert into projector.host (id, name, seen_at, member_ids, knows)
                 select $1, $2, now(), $3, $4 from projector.store where needs <= $4
                 on conflict do nothing",
                &[host.into(), name.into(), members.as_str().into(), knows.into()],
            )
            .await?;
        drop(session);
        match added {
            // A migration removed something after this host's last heartbeat, and did not wait for this host.
            0 => self.current_schema().await?.check_known(),
            _ => Ok(()),
        }
    }

    async fn deregister(&self, host: Uuid) -> Result<(), StoreError> {
        let delete = "delete from projector.host where id = $1";
        self.acquire().await?.execute(delete, &[host.into()]).await.map(drop)
    }

    async fn live_hosts(&self) -> Result<Vec<LiveHost>, StoreError> {
        let sql = format!(
            "select name, knows from projector.host where seen_at > {} order by name",
            heartbeat_limit::<D::Connection>()
        );
        self.acquire().await?.rows(&sql, &[]).await
    }

    async fn known_hosts(&self) -> Result<BTreeMap<Uuid, KnownHost>, StoreError> {
        let sql = format!(
            "select id, name, seen_at > {}, member_ids from projector.host",
            heartbeat_limit::<D::Connection>()
        );
        let rows: Vec<(Uuid, String, bool, Option<String>)> = self.acquire().await?.rows(&sql, &[]).await?;
        let host = |(id, name, is_live, members): (Uuid, String, bool, Option<String>)| {
            let members = members.and_then(|json| serde_json::from_str(&json).ok());
            (id, KnownHost { name, is_live, members })
        };
        Ok(rows.into_iter().map(host).collect())
    }
}

/// A host is live if its last heartbeat is later than this time.
pub(super) fn heartbeat_limit<S: Session>() -> String {
    S::seconds_ago(&HEARTBEAT_TIMEOUT.as_secs().to_string())
}
