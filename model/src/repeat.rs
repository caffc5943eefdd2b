//! Whether the events of a topic can be applied a second time without changing the rows.
//!
//! Why: when an operator moves a projection's checkpoints, for example to another cluster, some events that were applied
//! before may be read and applied again.

use crate::contract::{Contract, Write};
use crate::descriptor::{OnMiss, Operation};
use crate::order;

/// `Ok` if the last events of the topic, up to the newest, can be applied again in order: a row that the first of them
/// sets to an old value is set to its newest value by the events that follow.
///
/// `Err` says why not. Then only the ids of the events keep a repeated event from changing the rows.
pub fn is_repeatable(contract: &Contract, topic: usize) -> Result<(), String> {
    let topic = &contract.topics[topic];
    if topic.lookups.contains(&true) {
        return Err(
            "its events read rows, and may have another outcome when they are applied again".to_owned()
        );
    }
    let writes = contract.writes.iter().zip(&topic.writes).filter(|(_, may)| **may).map(|(write, _)| write);
    for write in writes {
        write_is_repeatable(write).map_err(|why| format!("its statement {:?} {why}", write.name))?;
        let table = &contract.tables[write.table].name;
        let depends = order::unsettled(contract).into_iter().find(|dependence| dependence.table == *table);
        if let Some(dependence) = depends {
            return Err(format!(
                "{table}.{} depends on the order between topics, which may differ when events are applied again",
                dependence.column
            ));
        }
    }
    Ok(())
}

fn write_is_repeatable(write: &Write) -> Result<(), &'static str> {
    if write.set.iter().any(|(_, operation)| *operation == Operation::Add) {
        return Err("adds to stored values");
    }
    match write.on_miss {
        OnMiss::Reject => Err(
            "rejects an event whose row is missing, and the row may be missing when the event is applied again",
        ),
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
        Descriptor::from_json(&json).expect("a descriptor").check().expect("a sound descriptor")
    }

    #[test]
    fn what_only_sets_may_come_again() {
        let upsert = r#"{"name": "w", "table": "r", "kind": "upsert", "set": [{"column": "n"}]}"#;
        assert_eq!(is_repeatable(&contract(upsert), 0), Ok(()));
        let add = upsert.replace(r#""n"}"#, r#""n", "operation": "add"}"#);
        assert_eq!(
            is_repeatable(&contract(&add), 0),
            Err("its statement \"w\" adds to stored values".into())
        );
        let delete = r#"{"name": "w", "table": "r", "kind": "delete", "by": ["id"], "on-miss": "reject"}"#;
        assert!(is_repeatable(&contract(delete), 0).is_err());
    }
}
