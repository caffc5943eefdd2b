//! What a plugin reads, owns and may write, before it ever runs.

use projector_model::order::{OrderDependence, dependences};
use projector_model::{Contract, Descriptor};
use serde::Serialize;

use crate::plugin::Plugin;

/// A checked component.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// SHA-256 of the file, in hex.
    pub digest: String,
    pub bytes: usize,
    /// What the author declared.
    pub descriptor: Descriptor,
    /// Whether batches are written one after the other, and why.
    pub one_writer: Option<String>,
    /// Columns whose value depends on the order between partitions.
    pub order_dependences: Vec<OrderDependence>,
}

pub fn inspect(plugin: &Plugin, bytes: usize) -> Inspection {
    let contract = &plugin.contract;
    Inspection {
        digest: plugin.digest.clone(),
        bytes,
        descriptor: contract.descriptor.clone(),
        one_writer: one_writer(contract),
        order_dependences: dependences(contract),
    }
}

fn one_writer(contract: &Contract) -> Option<String> {
    if !contract.needs_one_writer() {
        return None;
    }
    if contract.reads() {
        return Some("it reads rows, so every batch must see those before it".into());
    }
    let write = contract.writes.iter().find(|write| !contract.is_by_key(write));
    Some(match write {
        Some(write) => format!("{} writes rows by other columns than the key", write.name),
        None => "an update or delete rejects its event when it finds no row".into(),
    })
}
