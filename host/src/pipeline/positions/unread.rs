//! Shows why partitions are not read: one log line and one entry of `/v1/retrying` for each reason, with its partitions.

use std::collections::BTreeMap;

use projector_core::event::Partition;
use projector_core::failure::FailureKind;
use projector_kafka::{KafkaFault, Subject};

use crate::retry::{Backoff, Retries};

/// How many partitions one line names. Of further ones, the line has only the number.
const NAMED: usize = 8;

pub(super) struct Unread {
    projection: String,
    retries: Retries,
    /// The reasons that are shown.
    reasons: BTreeMap<String, Backoff>,
}

impl Unread {
    pub(super) fn new(projection: &str, retries: &Retries) -> Self {
        Self { projection: projection.to_owned(), retries: retries.clone(), reasons: BTreeMap::new() }
    }

    /// Shows why these partitions are not read. Reasons that no longer apply are no longer shown.
    pub(super) fn show(&mut self, unknown: Vec<(Partition, KafkaFault)>) {
        let mut by_reason: BTreeMap<String, (FailureKind, Vec<String>)> = BTreeMap::new();
        for (partition, fault) in unknown {
            let subject = match &fault.subject {
                Subject::Partition(_) => partition.to_string(),
                shared => shared.to_string(),
            };
            let (_, subjects) = by_reason.entry(fault.reason()).or_insert((fault.kind(), Vec::new()));
            if subjects.last() != Some(&subject) {
                subjects.push(subject);
            }
        }
        self.reasons.retain(|reason, backoff| {
            let lasts = by_reason.contains_key(reason);
            if !lasts {
                backoff.succeeded();
            }
            lasts
        });
        for (reason, (kind, subjects)) in by_reason {
            let more = subjects.len().saturating_sub(NAMED);
            let mut cause = subjects[..subjects.len().min(NAMED)].join(", ");
            if more > 0 {
                cause = format!("{cause} and {more} more");
            }
            let cause = format!("{cause}: {reason}");
            let new = || Backoff::new(&self.projection, &self.retries);
            self.reasons.entry(reason).or_insert_with(new).failed(kind, &cause);
        }
    }
}
