//! What a plugin answered, held against what it declared, before anything is planned.

use projector_model::change::codes;
use projector_model::{Change, Contract, LookupCall};

use crate::event_failure::Failure;
use crate::failure::FailureKind;

/// Checks an event's changes and brings their values to their columns' form. The failure names the
/// statement and the column.
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
                    "topic {} is not declared to lead to {}",
                    declared.name, contract.writes[statement].name
                ),
            ));
        }
    }
    Ok(())
}

/// Checks the lookups that an event asks for.
pub fn lookups(contract: &Contract, topic: u16, calls: &mut [LookupCall]) -> Result<(), Failure> {
    let declared = &contract.topics[usize::from(topic)];
    for call in calls {
        contract.fit_lookup(call).map_err(invalid)?;
        let lookup = usize::from(call.lookup);
        if !declared.lookups[lookup] {
            return Err(Failure::new(
                FailureKind::Invalid,
                codes::INVALID_CHANGE,
                format!("topic {} is not declared to read {}", declared.name, contract.lookups[lookup].name),
            ));
        }
    }
    Ok(())
}

fn invalid(rejection: projector_model::Rejection) -> Failure {
    Failure::new(FailureKind::Invalid, &rejection.code, rejection.detail)
}
