//! Brings the host's own tables up to date without a host, or shows what that would do.

use projector_config::{self as config, Config};
use projector_store::schema::Schema;
use projector_store::{self as store, StoreError};
use serde::Serialize;

use super::OperationError;

/// What became of a store's tables.
#[derive(Debug, Serialize)]
pub struct Migrated {
    /// Its url without role, password and parameters.
    pub store: String,
    /// As they were before; absent where the database was not reached.
    pub before: Option<Schema>,
    /// What was pending was carried out.
    pub done: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Carries out what is pending in every store, one after the other; one that fails keeps no other from it. With
/// `dry_run`, nothing is changed. `told` is given each as it is done.
pub async fn migrate(
    config: &Config,
    dry_run: bool,
    told: &(dyn Fn(&Migrated) + Sync),
) -> Result<Vec<Migrated>, OperationError> {
    let (mut all, mut failed) = (Vec::new(), None);
    for settings in config.all_stores() {
        let mut migrated = Migrated { store: settings.shown(), before: None, done: false, error: None };
        if let Err(error) = migrate_one(settings, dry_run, &mut migrated).await {
            migrated.error = Some(error.to_string());
            failed = Some(error);
        }
        told(&migrated);
        all.push(migrated);
    }
    failed.map_or(Ok(all), |error| Err(error.into()))
}

async fn migrate_one(
    settings: &config::Store,
    dry_run: bool,
    migrated: &mut Migrated,
) -> Result<(), StoreError> {
    let before = migrated.before.insert(store::look_at_schema(settings).await?);
    before.check_known()?;
    if dry_run || before.pending.is_empty() {
        return Ok(());
    }
    let store = store::open(settings).await?;
    store.close().await;
    migrated.done = true;
    Ok(())
}
