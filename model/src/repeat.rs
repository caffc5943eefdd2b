//! Whether the events of a topic may be applied again, in their order, without a trace in the rows.

use crate::contract::{Contract, Write};
use crate::descriptor::{OnMiss, Operation};
use crate::order;

/// `Err`: why not. Then only the events' ids keep an event that comes again from the rows.
///
/// What is applied again is the end of what was applied, up to its last event: so a row that the first of
/// these events sets back is set forward again by those that follow.
pub fn is_repeatable(contract: &Contract, topic: usize) -> Result<(), String> {
    let topic = &contract.topics[topic];
    if topic.lookups.contains(&true) {
        return Err("its events read rows, and may decide otherwise when they come again".to_owned());
    }
    let writes = contract.writes.iter().zip(&topic.writes).filter(|(_, may)| **may).map(|(write, _)| write);
    for write in writes {
        write_is_repeatable(write).map_err(|why| format!("its statement {:?} {why}", write.name))?;
        let table = &contract.tables[write.table].name;
        let depends = order::unsettled(contract).into_iter().find(|dependence| dependence.table == *table);
        if let Some(dependence) = depends {
            return Err(format!(
                "{table}.{} depends on the order between topics, which is another one when events come again",
                dependence.column
            ));
        }
    }
    Ok(())
}

fn write_is_repeatable(write: &Write) -> Result<(), &'static str> {
    if write.set.iter().any(|(_, operation)| *operation == Operation::Add) {
        return Err("adds");
    }
    match write.on_miss {
        OnMiss::Reject => {
            Err("rejects an event whose row is missing, as it may be when the event comes again")
        }
        OnMiss::Ignore => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::Descriptor;

    fn contract(statement: &str) -> Contract {
        let json = format!(
            r#"{{"name": "p", "version": "1", "revision": 1,
                "topics": [{{"name": "t", "statements": ["w"]}}],
                "tables": [{{"name": "r", "key": ["id"], "columns": [
                    {{"name": "id", "type": "text"}}, {{"name": "n", "type": "int64", "nullable": true}}]}}],
                "statements": [{statement}]}}"#
        );
        Descriptor::from_json(&json).expect("it is a descriptor").check().expect("it is sound")
    }

    #[test]
    fn what_only_sets_may_come_again() {
        let upsert = r#"{"name": "w", "table": "r", "kind": "upsert", "set": [{"column": "n"}]}"#;
        assert_eq!(is_repeatable(&contract(upsert), 0), Ok(()));
        let add = upsert.replace(r#""n"}"#, r#""n", "operation": "add"}"#);
        assert_eq!(is_repeatable(&contract(&add), 0), Err("its statement \"w\" adds".into()));
        let delete = r#"{"name": "w", "table": "r", "kind": "delete", "by": ["id"], "on-miss": "reject"}"#;
        assert!(is_repeatable(&contract(delete), 0).is_err());
    }
}
