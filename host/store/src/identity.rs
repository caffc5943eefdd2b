//! Whether a database is the one that its store was made in, or a copy of it.
//!
//! A copy has everything that its original has, the store's id included. Consumer groups are named by that id, so
//! hosts of the copy would take partitions from hosts of the original, and neither would read all events. What a
//! copy does not have is kept beside the id: the system identifier of the server and the oid of the database, or
//! when the file was made. A failover, another address or a renamed file changes none of these.
//!
//! A physical copy of a server has the same identity: only the members of the consumer groups tell it
//! (`group_members`).

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::requester::Requester;
use super::{Store, StoreError};

/// What tells a database from its copies, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseIdentity {
    /// Postgres: the system identifier of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Postgres: the oid of the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// SQLite: when the file was made, in nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub born: Option<String>,
    /// SQLite: the number of the file in its file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<String>,
    /// What it is called, for people: copies and originals may have any name.
    pub name: String,
}

impl DatabaseIdentity {
    /// Whether these are two databases. What is not known on either side proves nothing.
    pub fn differs_from(&self, other: &Self) -> bool {
        let differ = |one: &Option<String>, other: &Option<String>| matches!((one, other), (Some(one), Some(other)) if one != other);
        let born_is_known = self.born.is_some() && other.born.is_some();
        differ(&self.server, &other.server)
            || differ(&self.database, &other.database)
            || differ(&self.born, &other.born)
            || (!born_is_known && differ(&self.inode, &other.inode))
    }

    /// Why hosts must not run a store that is recorded as another database than this one. `None`: they may.
    pub fn is_a_copy(&self, recorded: Option<&Self>) -> Option<String> {
        let recorded = recorded.filter(|recorded| recorded.differs_from(self))?;
        Some(format!(
            "the database is not the one that this store was made in: it is {}, and was {}. If it is a copy or a restored backup, its hosts would take partitions from the hosts of the original",
            self.to_text(),
            recorded.to_text()
        ))
    }

    /// This one, with what only the other one knows.
    fn with_what_was_known(mut self, other: &Self) -> Self {
        self.server = self.server.or_else(|| other.server.clone());
        self.database = self.database.or_else(|| other.database.clone());
        self.born = self.born.or_else(|| other.born.clone());
        self.inode = self.inode.or_else(|| other.inode.clone());
        self
    }

    fn from_json(json: Option<String>) -> Result<Option<Self>, StoreError> {
        let read = |json: String| {
            serde_json::from_str(&json)
                .map_err(|error| StoreError::Drift(format!("the database's identity {json:?}: {error}")))
        };
        json.map(read).transpose()
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For people: its name, and what tells it from others.
    pub fn to_text(&self) -> String {
        let inode = self.inode.as_ref().filter(|_| self.born.is_none());
        let facts = [
            ("server", self.server.as_ref()),
            ("oid", self.database.as_ref()),
            ("made at", self.born.as_ref()),
            ("inode", inode),
        ];
        let facts = facts.into_iter().filter_map(|(what, fact)| Some(format!("{what} {}", fact?)));
        let facts = facts.collect::<Vec<_>>().join(", ");
        if facts.is_empty() { self.name.clone() } else { format!("{} ({facts})", self.name) }
    }
}

/// A host as its database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHost {
    pub name: String,
    /// Whether it was seen within [`PRESENCE`](super::deployments::PRESENCE).
    pub is_live: bool,
    /// The ids that it has as a member of consumer groups. `None`: it does not tell them.
    pub members: Option<BTreeSet<String>>,
}

/// What a database is told by `projector adopt`.
#[derive(Debug)]
pub struct Adoption<'a> {
    /// The store's id as it was found; another one is refused.
    pub from: Uuid,
    /// The same: the consumer groups are kept.
    pub to: Uuid,
    pub identity: &'a DatabaseIdentity,
    pub asked: &'a Requester,
}

#[async_trait]
pub trait Identities: Send + Sync {
    /// The identity of the database that this is now.
    async fn found_identity(&self) -> Result<DatabaseIdentity, StoreError>;

    /// As it is stored, in JSON. `None`: no host has looked yet.
    async fn stored_identity(&self) -> Result<Option<String>, StoreError>;

    /// Stores the identity, unless another one than `before` is stored meanwhile.
    async fn store_identity(
        &self,
        before: Option<&str>,
        identity: &DatabaseIdentity,
    ) -> Result<(), StoreError>;

    /// Stores the identity, and the store's id, in one transaction. Refused while hosts are live.
    async fn adopt(&self, adoption: &Adoption<'_>) -> Result<(), StoreError>;

    /// Every host that was seen in the last hour.
    async fn known_hosts(&self) -> Result<BTreeMap<Uuid, KnownHost>, StoreError>;
}

/// The identity that is recorded, as far as one is.
pub async fn recorded(store: &dyn Store) -> Result<Option<DatabaseIdentity>, StoreError> {
    DatabaseIdentity::from_json(store.stored_identity().await?)
}

/// Why hosts must not run a store: the database is another one than the recorded one. `None`: they may.
pub async fn copied(store: &dyn Store) -> Result<Option<String>, StoreError> {
    Ok(store.found_identity().await?.is_a_copy(recorded(store).await?.as_ref()))
}

/// Before a host runs a store: records its identity if none is yet. An error if the database is another one.
pub async fn confirm(store: &dyn Store) -> Result<(), StoreError> {
    let found = store.found_identity().await?;
    let before = store.stored_identity().await?;
    let recorded = DatabaseIdentity::from_json(before.clone())?;
    if let Some(reason) = found.is_a_copy(recorded.as_ref()) {
        return Err(StoreError::Copied(reason));
    }
    let now = match recorded {
        None => found,
        Some(recorded) => found.with_what_was_known(&recorded),
    };
    match before.as_deref() == Some(&*now.to_json()) {
        true => Ok(()),
        false => store.store_identity(before.as_deref(), &now).await,
    }
}

/// Of a row: the ids that a host has as a member of groups.
pub(super) fn members(json: Option<String>) -> Option<BTreeSet<String>> {
    json.and_then(|json| serde_json::from_str(&json).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(server: &str, database: &str) -> DatabaseIdentity {
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        DatabaseIdentity { server: known(server), database: known(database), ..Default::default() }
    }

    fn file(born: &str, inode: &str) -> DatabaseIdentity {
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        DatabaseIdentity { born: known(born), inode: known(inode), ..Default::default() }
    }

    #[test]
    fn another_server_or_another_database_is_another_one() {
        let recorded = postgres("7", "16384");
        assert!(!recorded.differs_from(&postgres("7", "16384")));
        assert!(recorded.differs_from(&postgres("8", "16384")));
        assert!(recorded.differs_from(&postgres("7", "16385")));
    }

    #[test]
    fn what_is_not_known_proves_nothing() {
        assert!(!postgres("7", "16384").differs_from(&postgres("", "16384")));
        assert!(!DatabaseIdentity::default().differs_from(&postgres("7", "16384")));
        let kept = postgres("", "16384").with_what_was_known(&postgres("7", "16384"));
        assert_eq!(kept, postgres("7", "16384"));
    }

    #[test]
    fn a_file_is_told_by_its_birth_and_else_by_its_number() {
        assert!(file("1", "12").differs_from(&file("2", "12")));
        assert!(!file("1", "12").differs_from(&file("1", "13")));
        assert!(file("", "12").differs_from(&file("", "13")));
        assert!(!file("1", "").differs_from(&file("", "13")));
    }

    #[test]
    fn it_is_stored_and_read_again() {
        let identity = DatabaseIdentity { name: "orders".into(), ..postgres("7", "16384") };
        assert_eq!(DatabaseIdentity::from_json(Some(identity.to_json())).unwrap(), Some(identity));
        // A later version may know more.
        let later = DatabaseIdentity::from_json(Some(r#"{"server":"7","more":1}"#.into())).unwrap();
        assert_eq!(later, Some(postgres("7", "")));
    }
}
