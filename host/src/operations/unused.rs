//! What in the configuration has no effect, as far as the databases tell.

use std::collections::BTreeSet;

use projector_config::{Config, Known};
use projector_model::Descriptor;
use projector_store as store;

/// A warning for each name in the configuration that no database has and no plugin that is `known` otherwise.
/// `None`: a database cannot be read, so that this is not known.
pub async fn unused(config: &Config, mut known: Known) -> Option<Vec<String>> {
    for settings in config.all_stores() {
        let Some(store) = store::open_if_used(settings).await.ok()?.1 else { continue };
        let overview = store.overview().await;
        store.close().await;
        for projection in overview.ok()? {
            match Descriptor::from_json(&projection.descriptor) {
                Ok(descriptor) => add(&mut known, &descriptor),
                Err(_) => drop(known.entry(projection.name).or_default()),
            }
        }
    }
    Some(config.unused(&known))
}

/// Adds what a plugin says of itself.
pub fn add(known: &mut Known, descriptor: &Descriptor) {
    let topics: BTreeSet<String> = descriptor.topics.iter().map(|topic| topic.name.clone()).collect();
    known.entry(descriptor.name.clone()).or_default().extend(topics);
}
