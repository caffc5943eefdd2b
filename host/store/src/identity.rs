//! Detects that a database is a copy of the one in which its store was created.
//!
//! Why: a copy has the same store id as its original, and consumer groups are named by that id. Hosts of the copy would take
//! partitions from hosts of the original, and neither would read all events. So the store records what a copy does not
//! have: the system identifier of the server and the oid of the database (Postgres), or the creation time of the file
//! (SQLite). A failover, another address or a renamed file changes none of these.
//!
//! A physical copy of a server has the same identity. Only the members of the consumer groups tell it from the original:
//! hosts detect members that are not hosts of their store.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Store;
use crate::error::StoreError;
use crate::requester::Requester;

/// What distinguishes a database from its copies, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseIdentity {
    /// Postgres: the system identifier of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Postgres: the oid of the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// SQLite: when the file was created, in nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub born: Option<String>,
    /// SQLite: the inode of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<String>,
    /// Its name, for people. It does not distinguish copies, which may have any name.
    pub name: String,
}

impl DatabaseIdentity {
    /// Whether these are two databases. A fact that is unknown on either side proves nothing.
    pub fn differs_from(&self, other: &Self) -> bool {
        let differ = |one: &Option<String>, other: &Option<String>| matches!((one, other), (Some(one), Some(other)) if one != other);
        let born_is_known = self.born.is_some() && other.born.is_some();
        differ(&self.server, &other.server)
            || differ(&self.database, &other.database)
            || differ(&self.born, &other.born)
            || (!born_is_known && differ(&self.inode, &other.inode))
    }

    /// Why no host may run this database, given the recorded identity. `None`: hosts may.
    pub fn is_a_copy(&self, recorded: Option<&Self>) -> Option<String> {
        let recorded = recorded.filter(|recorded| recorded.differs_from(self))?;
        Some(format!(
            "the database is not the one in which this store was created: it is {}, and was {}. If it is a copy or a restored backup, its hosts would take partitions from the hosts of the original",
            self.to_text(),
            recorded.to_text()
        ))
    }

    /// Adds the facts that only `other` knows.
    fn completed_by(mut self, other: &Self) -> Self {
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

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For people: its name, and what distinguishes it from others.
    pub fn to_text(&self) -> String {
        let inode = self.inode.as_ref().filter(|_| self.born.is_none());
        let facts = [
            ("server", self.server.as_ref()),
            ("oid", self.database.as_ref()),
            ("created at", self.born.as_ref()),
            ("inode", inode),
        ];
        let facts = facts.into_iter().filter_map(|(what, fact)| Some(format!("{what} {}", fact?)));
        let facts = facts.collect::<Vec<_>>().join(", ");
        if facts.is_empty() { self.name.clone() } else { format!("{} ({facts})", self.name) }
    }
}

/// What `projector adopt` writes.
#[derive(Debug)]
pub struct Adoption<'a> {
    /// The store's id as it was read. The adoption is refused if it has changed since.
    pub from: Uuid,
    /// The store's id from now on. The same id keeps the consumer groups.
    pub to: Uuid,
    pub identity: &'a DatabaseIdentity,
    pub requester: &'a Requester,
}

#[async_trait]
/// The identity of a store's database.
pub trait IdentityStore: Send + Sync {
    /// The identity that the database has now.
    async fn found_identity(&self) -> Result<DatabaseIdentity, StoreError>;

    /// The recorded identity, in JSON. `None`: no host has recorded it yet.
    async fn stored_identity(&self) -> Result<Option<String>, StoreError>;

    /// Records the identity, unless the recorded one is not `before` any more.
    async fn store_identity(
        &self,
        before: Option<&str>,
        identity: &DatabaseIdentity,
    ) -> Result<(), StoreError>;

    /// Records the identity and the store's id in one transaction. Refused while hosts are live.
    async fn adopt(&self, adoption: &Adoption<'_>) -> Result<(), StoreError>;
}

/// The recorded identity, if there is one.
pub async fn recorded(store: &dyn Store) -> Result<Option<DatabaseIdentity>, StoreError> {
    DatabaseIdentity::from_json(store.stored_identity().await?)
}

/// Why no host may run a store: its database is not the recorded one. `None`: hosts may.
pub async fn copied(store: &dyn Store) -> Result<Option<String>, StoreError> {
    Ok(store.found_identity().await?.is_a_copy(recorded(store).await?.as_ref()))
}

/// Before a host runs a store: records its identity if none is recorded. An error if the database is another one.
pub async fn confirm(store: &dyn Store) -> Result<(), StoreError> {
    let found = store.found_identity().await?;
    let before = store.stored_identity().await?;
    let recorded = DatabaseIdentity::from_json(before.clone())?;
    if let Some(reason) = found.is_a_copy(recorded.as_ref()) {
        return Err(StoreError::Copied(reason));
    }
    let now = match recorded {
        None => found,
        Some(recorded) => found.completed_by(&recorded),
    };
    match before.as_deref() == Some(&*now.to_json()) {
        true => Ok(()),
        false => store.store_identity(before.as_deref(), &now).await,
    }
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
    fn another_server_or_another_oid_is_another_database() {
        let recorded = postgres("7", "16384");
        assert!(!recorded.differs_from(&postgres("7", "16384")));
        assert!(recorded.differs_from(&postgres("8", "16384")));
        assert!(recorded.differs_from(&postgres("7", "16385")));
    }

    #[test]
    fn an_unknown_fact_proves_nothing() {
        assert!(!postgres("7", "16384").differs_from(&postgres("", "16384")));
        assert!(!DatabaseIdentity::default().differs_from(&postgres("7", "16384")));
        let completed = postgres("", "16384").completed_by(&postgres("7", "16384"));
        assert_eq!(completed, postgres("7", "16384"));
    }

    #[test]
    fn a_file_is_identified_by_its_creation_time_or_else_by_its_inode() {
        assert!(file("1", "12").differs_from(&file("2", "12")));
        assert!(!file("1", "12").differs_from(&file("1", "13")));
        assert!(file("", "12").differs_from(&file("", "13")));
        assert!(!file("1", "").differs_from(&file("", "13")));
    }

    #[test]
    fn a_stored_identity_is_read_again() {
        let identity = DatabaseIdentity { name: "orders".into(), ..postgres("7", "16384") };
        assert_eq!(DatabaseIdentity::from_json(Some(identity.to_json())).unwrap(), Some(identity));
        // A later version may store more facts.
        let later = DatabaseIdentity::from_json(Some(r#"{"server":"7","more":1}"#.into())).unwrap();
        assert_eq!(later, Some(postgres("7", "")));
    }
}
