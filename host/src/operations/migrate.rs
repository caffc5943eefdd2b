//! Migrates the host's own tables without a host, or shows which migrations are pending.

use projector_config::{self as config, Config};
use projector_store::schema::Schema;
use projector_store::{self as store, StoreError};
use serde::Serialize;

use super::OperationError;

/// The result for one store.
#[derive(Debug, Serialize)]
pub struct Migrated {
    /// The store's URL without role, password and parameters.
    pub store: String,
    /// The state of the tables before; absent if the database did not respond.
    pub before: Option<Schema>,
    /// Whether pending migrations were carried out.
    pub done: bool,
    /// Why the migration failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Migrates every store, one after the other. If a store fails, the next one is migrated all the same, and the last
/// error is returned. `dry_run`: nothing is changed. `report` gets the result of each store as soon as it is known.
pub async fn migrate(
    config: &Config,
    dry_run: bool,
    report: &(dyn Fn(&Migrated) + Sync),
) -> Result<Vec<Migrated>, OperationError> {
    let (mut all, mut failed) = (Vec::new(), None);
    for settings in config.all_stores() {
        let mut migrated = Migrated { store: settings.shown(), before: None, done: false, error: None };
        if let Err(error) = migrate_one(settings, dry_run, &mut migrated).await {
            migrated.error = Some(error.to_string());
            failed = Some(error);
        }
        report(&migrated);
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
