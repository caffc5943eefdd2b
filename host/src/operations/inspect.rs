//! What a plugin reads, owns and may write, found out without running it.

use projector_core::planner::{self, Rules};
use projector_model::order::{OrderDependence, RejectionDependence, dependences, rejections};
use projector_model::{Contract, Descriptor};
use projector_sandbox::Plugin;
use serde::Serialize;

/// A checked component.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// SHA-256 of the file, in hex.
    pub digest: String,
    pub bytes: usize,
    /// What the author declared.
    pub descriptor: Descriptor,
    /// Why batches are written one after the other. Absent if lanes write batches side by side.
    pub one_writer: Option<String>,
    /// How the planner may merge the changes of each statement, and of each two statements of one table.
    pub merging: Vec<Merging>,
    /// Columns whose value depends on the order between partitions.
    pub order_dependences: Vec<OrderDependence>,
    /// Topics whose events are rejected or not, depending on the order between partitions.
    pub rejection_dependences: Vec<RejectionDependence>,
}

/// How the planner may merge the changes of two statements, or of one statement.
#[derive(Debug, Serialize)]
pub struct Merging {
    pub table: String,
    pub statement: String,
    /// The other statement. `None`: changes of the same statement to the same row.
    pub with: Option<String>,
    /// The planner's rule, as text.
    pub verdict: String,
}

pub fn inspect(plugin: &Plugin, bytes: usize) -> Inspection {
    let contract = &plugin.contract;
    Inspection {
        digest: plugin.digest.clone(),
        bytes,
        descriptor: contract.descriptor.clone(),
        one_writer: one_writer(contract),
        merging: merging(contract),
        order_dependences: dependences(contract),
        rejection_dependences: rejections(contract),
    }
}

fn merging(contract: &Contract) -> Vec<Merging> {
    let rules = Rules::of(contract);
    let mut found = Vec::new();
    for (at, one) in contract.writes.iter().enumerate() {
        let table = &contract.tables[one.table].name;
        let mut add = |with: Option<&str>, verdict: String| {
            let with = with.map(str::to_owned);
            found.push(Merging { table: table.clone(), statement: one.name.clone(), with, verdict });
        };
        add(None, planner::folding(one).to_owned());
        let others = contract.writes.iter().enumerate().skip(at + 1);
        for (other_at, other) in others.filter(|(_, other)| other.table == one.table) {
            add(Some(&other.name), rules.relation(at as u16, other_at as u16).to_string());
        }
    }
    found
}

fn one_writer(contract: &Contract) -> Option<String> {
    if !contract.needs_one_writer() {
        return None;
    }
    if contract.reads() {
        return Some("it reads rows, so each batch must see the rows of the batches before it".into());
    }
    let write = contract.writes.iter().find(|write| !contract.is_by_key(write));
    Some(match write {
        Some(write) => format!("{} writes rows by other columns than the key", write.name),
        None => "an update or delete rejects its event when it finds no row".into(),
    })
}
