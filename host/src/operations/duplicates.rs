//! Events that were ignored as duplicates.

use projector_config::Config;
use projector_store::event_ids::RecordedDuplicate;

use super::{OperationError, projection};

/// The last ones of a projection, newest first: so many at most.
pub async fn list(config: &Config, name: &str, most: i64) -> Result<Vec<RecordedDuplicate>, OperationError> {
    let (store, _) = projection(config, name).await?;
    let found = store.duplicates(name, most).await;
    store.close().await;
    Ok(found?)
}
