//! Checks a plugin's answer against its descriptor, before the changes are planned.

use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_model::change::codes;
use projector_model::{Change, Contract, LookupCall};

/// Checks an event's changes, and converts their values to the types of their columns. The failure names the statement
/// and the column.
pub fn changes(contract: &Contract, topic: u16, changes: &mut [Change]) -> Result<(), Failure> {
    let declared = &contract.topics[usize::from(topic)];
    for change in changes {
        contract.fit(change).map_err(invalid)?;
        let statement = usize::from(change.statement);
        if !declared.writes[statement] {
            return Err(Failure::new(
                FailureKind::Invalid,
                codes::INVALID_CHANGE,
                format!(
                    "the descriptor does not declare that topic {} writes with the statement {}",
                    declared.name, contract.writes[statement].name
                ),
            ));
        }
    }
    Ok(())
}

/// Checks an event's lookups, as [`changes`] does.
pub fn lookups(contract: &Contract, topic: u16, calls: &mut [LookupCall]) -> Result<(), Failure> {
    let declared = &contract.topics[usize::from(topic)];
    for call in calls {
        contract.fit_lookup(call).map_err(invalid)?;
        let lookup = usize::from(call.lookup);
        if !declared.lookups[lookup] {
            return Err(Failure::new(
                FailureKind::Invalid,
                codes::INVALID_CHANGE,
                format!(
                    "the descriptor does not declare that topic {} uses the lookup {}",
                    declared.name, contract.lookups[lookup].name
                ),
            ));
        }
    }
    Ok(())
}

fn invalid(rejection: projector_model::Rejection) -> Failure {
    Failure::new(FailureKind::Invalid, &rejection.code, rejection.detail)
}
