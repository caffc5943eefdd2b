//! The check of a descriptor: from the names that an author wrote to a [`Contract`] that the host relies on.
//!
//! Why: a plugin declares its tables, statements, lookups and topics once, when the host loads it. Everything that can
//! be decided then is decided here, so that it need not be decided again for every event.
//!
//! Invariants:
//! - In a contract every name is resolved, and every index is in range.
//! - All problems are reported together. The only exception is a descriptor beyond the [`limits`]: nothing else of it is
//!   checked, because the time that a check takes grows with the descriptor's size.
//! - No identifier that reaches SQL needs quotes or can break out of them.

mod limits;
mod names;
mod statements;
mod tables;
mod topics;

use crate::contract::Contract;
use crate::descriptor::{Descriptor, StatementKind};
use crate::problem::{Problems, Report};

impl Descriptor {
    /// Checks everything that can be known before the plugin runs, and resolves every name.
    ///
    /// The error holds all problems at once, each with its place and what to write instead.
    pub fn check(self) -> Result<Contract, Problems> {
        let mut report = Report::default();
        limits::check(&mut report, &self);
        report.finish()?;

        let mut report = Report::default();
        let contract = resolve(&mut report, self);
        report.finish()?;
        Ok(contract)
    }
}

/// The contract is complete only if nothing was reported: what has a problem is left out of it.
fn resolve(report: &mut Report, descriptor: Descriptor) -> Contract {
    names::projection(report, &descriptor.name);
    version(report, &descriptor.version);
    let mut tables = tables::resolve(report, &descriptor.tables);
    let writes = statements::resolve(report, &descriptor.statements, &tables);
    let lookups = statements::resolve_lookups(report, &descriptor.lookups, &tables);
    names::codes(report, "ignores", &descriptor.ignores);
    names::codes(report, "rejects", &descriptor.rejects);
    let topics = topics::resolve(report, &descriptor);
    for write in &writes {
        tables[write.table].has_tombstones |= write.kind == StatementKind::Delete && write.guard.is_some();
    }
    Contract { descriptor, topics, tables, writes, lookups }
}

fn version(report: &mut Report, version: &str) {
    if version.is_empty() || version.len() > 100 || version.chars().any(char::is_control) {
        report.add(
            "version",
            "the version is empty, longer than 100 bytes, or has control characters",
            "write a version like 1.4.0",
        );
    }
}

#[cfg(test)]
mod tests;
