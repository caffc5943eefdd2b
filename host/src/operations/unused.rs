//! Names in the configuration that have no effect, because no plugin and no database has them.

use std::collections::BTreeSet;

use projector_config::{Config, Known};
use projector_model::Descriptor;
use projector_store as store;

/// A warning for each name in the configuration that neither a database has nor `known`: the names of plugins that
/// are not in a database yet. `None`: unknown, because a database cannot be read.
pub async fn unused(config: &Config, mut known: Known) -> Option<Vec<String>> {
    for settings in config.all_stores() {
        let Some(store) = store::open_if_used(settings).await.ok()?.1 else { continue };
        let overview = store.overview().await;
        store.close().await;
        for projection in overview.ok()? {
            match Descriptor::from_json(&projection.active.descriptor) {
                Ok(descriptor) => add(&mut known, &descriptor),
                Err(_) => drop(known.entry(projection.name).or_default()),
            }
        }
    }
    Some(config.unused(&known))
}

/// Adds a plugin's name and topics to the known names.
pub fn add(known: &mut Known, descriptor: &Descriptor) {
    let topics: BTreeSet<String> = descriptor.topics.iter().map(|topic| topic.name.clone()).collect();
    known.entry(descriptor.name.clone()).or_default().extend(topics);
}
