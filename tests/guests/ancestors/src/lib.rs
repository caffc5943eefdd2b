//! A plugin that needs three rounds of reads: each person is stored with the parent's parent's parent, which the handler
//! finds step by step.

use projector_sdk::prelude::*;
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq, Table)]
#[table(name = "person", lineage)]
pub struct Person {
    #[key]
    pub id: String,
    pub parent: Option<String>,
    /// The parent's parent's parent, if it was stored when the person was born.
    pub ancestor: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Born {
    pub id: String,
    pub parent: Option<String>,
}

pub struct Ancestors;

#[projection(name = "ancestors", revision = 1)]
impl Ancestors {
    #[on("person.born.v1", writes(Person), reads(Person))]
    fn born(event: Event<Born>, cx: &mut Context<Self>) -> Outcome {
        let Born { id, parent } = event.payload;
        // The parent, the parent's parent, and the parent's parent's parent.
        let mut ancestor = parent.clone();
        for _ in 0..2 {
            let Some(one) = ancestor else { break };
            ancestor = cx.get::<Person>(&one)?.and_then(|person| person.parent);
        }
        // The third read makes sure that the ancestor is stored.
        if let Some(one) = ancestor.take() {
            ancestor = cx.get::<Person>(&one)?.map(|person| person.id);
        }
        cx.write(Person { id, parent, ancestor });
        Ok(())
    }
}
