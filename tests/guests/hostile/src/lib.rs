//! A plugin that misbehaves. Each event on the topic `hostile.events.v1` tells the plugin what to do.
//!
//! Why: the host's tests check that no plugin can harm the host, whatever the plugin does. `{"do": "trap", "id": "1"}`
//! makes the instance trap. The only harmless behaviour is `{"do": "write", "id": "1"}`: see `instruction` for the others.
//!
//! The plugin implements `Projection` by hand, because the SDK's macros and typed statements prevent most of this.

mod answers;
mod instance;
mod instruction;

use projector_sdk::Projection;
use projector_sdk::model::{Descriptor, Rejection};
use projector_sdk::record::{Answer, Found, Record};

use instruction::Instruction;

pub struct Hostile;

#[cfg(target_arch = "wasm32")]
projector_sdk::export_projection!(Hostile);

impl Projection for Hostile {
    fn descriptor() -> Descriptor {
        match Descriptor::from_json(include_str!("descriptor.json")) {
            Ok(descriptor) => descriptor,
            Err(problems) => panic!("{problems}"),
        }
    }

    fn project(record: &Record, found: Vec<Found>) -> Result<Answer, Rejection> {
        let instruction: Instruction = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
            .map_err(|error| Rejection::new("bad-payload", error.to_string()))?;
        if let Some(note) = instance::harm(instruction.behaviour) {
            return Ok(answers::note(&instruction.id, note));
        }
        answers::answer(&instruction, found.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use projector_sdk::model::{Contract, Tables};

    fn contract() -> Contract {
        Hostile::descriptor().check().expect("a sound descriptor")
    }

    fn answer(behaviour: &str) -> Result<Answer, Rejection> {
        let value = format!(r#"{{"do": "{behaviour}", "id": "1"}}"#).into_bytes();
        Hostile::project(&Record { value: Some(value), ..Record::default() }, Vec::new())
    }

    /// The code with which the model rejects the changes, when they are applied for the second time.
    fn code_of(behaviour: &str) -> String {
        let contract = contract();
        let mut tables = Tables::new(&contract);
        let Ok(Answer::Changes(changes)) = answer(behaviour) else {
            panic!("{behaviour} answers no changes")
        };
        let _ = tables.apply_event(&contract, &changes);
        tables.apply_event(&contract, &changes).map_or_else(|rejection| rejection.code, |_| "applied".into())
    }

    #[test]
    fn every_misbehaviour_is_rejected() {
        for (behaviour, code) in [
            ("write", "applied"),
            ("foreign-statement", "applied"),
            ("wrong-statement", "invalid-change"),
            ("too-few-arguments", "invalid-change"),
            ("too-many-arguments", "invalid-change"),
            ("many-changes", "invalid-change"),
            ("wrong-type", "invalid-value"),
            ("nul-text", "invalid-value"),
            ("bad-json", "invalid-value"),
            ("nul-json", "invalid-value"),
            ("nan", "invalid-value"),
            ("decimal-overflow", "invalid-value"),
            ("timestamp-overflow", "invalid-value"),
            ("null-key", "null-key"),
            ("add-overflow", "overflow"),
        ] {
            assert_eq!(code_of(behaviour), code, "{behaviour}");
        }
    }

    #[test]
    fn remember_answers_differently_each_time() {
        assert_ne!(answer("remember"), answer("remember"));
    }

    #[test]
    fn an_unknown_behaviour_is_a_bad_payload() {
        assert_eq!(answer("behave").map_err(|rejection| rejection.code), Err("bad-payload".into()));
    }
}
