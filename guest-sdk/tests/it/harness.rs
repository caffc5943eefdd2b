//! The harness finds the mistakes for which the host would refuse or fail a plugin.

use std::sync::atomic::{AtomicI64, Ordering};

use projector_sdk::prelude::*;
use projector_sdk::testing::Harness;

#[derive(Debug, Table)]
struct Counter {
    #[key]
    id: String,
    n: i64,
}

#[derive(Delete)]
#[delete(table = Counter, by(n))]
struct Unsupported {
    n: i64,
}

static SEEN: AtomicI64 = AtomicI64::new(0);

struct Careless;

#[projection(name = "careless", ignores("declared"))]
impl Careless {
    #[on("remembers", writes(Counter))]
    fn remembers(event: Event<String>, cx: &mut Context<Self>) -> Outcome {
        cx.write(Counter { id: event.payload, n: SEEN.fetch_add(1, Ordering::Relaxed) });
        Ok(())
    }

    #[on("undeclared-code")]
    fn undeclared_code(event: Event<String>, cx: &mut Context<Self>) -> Outcome {
        let code = "computed";
        cx.ignore(code, event.payload)
    }

    #[on("undeclared-write")]
    fn undeclared_write(event: Event<String>, cx: &mut Context<Self>) -> Outcome {
        cx.write(Counter { id: event.payload, n: 1 });
        Ok(())
    }

    #[on("undeclared-read")]
    fn undeclared_read(event: Event<String>, cx: &mut Context<Self>) -> Outcome {
        cx.get::<Counter>(&event.payload)?;
        Ok(())
    }

    #[on("too-many-rounds", reads(Counter))]
    fn too_many_rounds(event: Event<String>, cx: &mut Context<Self>) -> Outcome {
        for round in 0..3 {
            cx.get::<Counter>(&format!("{}{round}", event.payload))?;
        }
        Ok(())
    }
}

struct Unsound;

#[projection(name = "Unsound")]
impl Unsound {
    #[on("topic", writes(Unsupported))]
    fn delete(event: Event<i64>, cx: &mut Context<Self>) -> Outcome {
        cx.write(Unsupported { n: event.payload });
        Ok(())
    }
}

fn send(topic: &str) {
    let _ = Harness::<Careless>::new().event(topic).json("x").send();
}

#[test]
#[should_panic(expected = "it keeps state between events")]
fn memory() {
    send("remembers");
}

#[test]
#[should_panic(expected = "add `ignores(\"computed\" = \"what it means\")`")]
fn undeclared_codes() {
    send("undeclared-code");
}

#[test]
#[should_panic(
    expected = "an event of undeclared-write writes counter, but its handler does not declare that"
)]
fn writes_of_another_topic() {
    send("undeclared-write");
}

#[test]
#[should_panic(expected = "an event of undeclared-read reads counter, but its handler does not declare that")]
fn reads_of_another_topic() {
    send("undeclared-read");
}

#[test]
#[should_panic(expected = "still asks for rows after 3 rounds")]
fn endless_reads() {
    send("too-many-rounds");
}

#[test]
#[should_panic(expected = "declare the index {\"columns\": [\"n\"]}")]
fn an_unsound_declaration() {
    let _ = Harness::<Unsound>::new();
}

#[test]
#[should_panic(expected = "the projection has no handler for \"nothing\"")]
fn an_unknown_topic() {
    send("nothing");
}

/// The fault is the event's, not the plugin's, in the host as well.
#[test]
fn a_key_that_no_row_can_have_rejects_the_event() {
    let mut harness = Harness::<Careless>::new();
    let detail = harness.event("too-many-rounds").json("\0").send().expect_rejected("invalid-value");
    assert!(detail.contains("counter.id"), "{detail}");
}
