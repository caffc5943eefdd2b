//! Events that were ignored as duplicates.

use projector_config::Config;
use projector_store::event_ids::RecordedDuplicate;

use super::{OperationError, with_store};

/// The last duplicates of a projection, newest first, at most `most`.
pub async fn list(config: &Config, name: &str, most: i64) -> Result<Vec<RecordedDuplicate>, OperationError> {
    with_store(config, name, |store, _| async move { Ok(store.duplicates(name, most).await?) }).await
}
