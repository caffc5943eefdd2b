//! Files in the plugin directory.

use std::sync::LazyLock;
use std::time::Duration;

use projector::validate;
use projector_config::{EventLimits, InstanceLimits, Limits};
use projector_core::event::{Event, Partition, Position};
use projector_sandbox::{self as plugin, Answer, Engine, Instance, Plugin};

use crate::{Shape, Target};

// The tests of the loader make their components of the same.
#[path = "../../tests/it/harness/component.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "they make more of it, and are tests")]
mod component;

use component::{Argument, Guest};

pub(crate) const TARGET: Target =
    Target { name: "components", check, seeds, most_bytes: 16_384, shape: Shape::Measured };

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(512 * 1024).expect("an engine"));

/// It is refused with a reason; or its contract was checked, and it answers an event, or breaks off.
///
/// Compiled in this process, since a worker for each input would take most of the time; what bounds a
/// worker bounds the fuzzer as a whole.
fn check(bytes: &[u8]) -> bool {
    let limits = Limits {
        event: EventLimits {
            fuel: 1_000_000,
            fuel_per_byte: 0,
            time: Duration::from_secs(1),
            output_bytes: 256 * 1024,
            ..EventLimits::default()
        },
        instance: InstanceLimits { memory_bytes: 16 * 1024 * 1024, ..InstanceLimits::default() },
        ..Limits::default()
    };
    match Plugin::load_in_process(&ENGINE, &limits, bytes) {
        Ok(plugin) => {
            assert_eq!(plugin.digest, plugin::digest(bytes));
            let again = plugin.contract.descriptor.clone().check().expect("a checked descriptor");
            assert_eq!(format!("{again:?}"), format!("{:?}", plugin.contract));
            called(&plugin);
            true
        }
        Err(error) => {
            assert!(!error.is_ours(), "{error}");
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

fn called(plugin: &Plugin) {
    let event = Event {
        position: Position { partition: Partition::new("t", 0), offset: 0 },
        topic: 0,
        timestamp_ms: Some(0),
        key: Some(b"key".to_vec()),
        value: Some(b"{}".to_vec()),
        also: Vec::new(),
        topic_name: "t".into(),
        oversize_bytes: None,
        headers: vec![],
    };
    let answer = Instance::new(plugin).and_then(|mut instance| instance.project(&event, &[]));
    let _ = match answer {
        Ok(Answer::Changes(mut changes)) => validate::changes(&plugin.contract, 0, &mut changes),
        Ok(Answer::Needs(mut calls)) => validate::lookups(&plugin.contract, 0, &mut calls),
        Ok(Answer::Ignored { .. }) => Ok(()),
        Err(failure) => Err(failure),
    };
}

const DESCRIPTOR: &str = r#"{"name":"a","version":"1","topics":[{"name":"t","statements":["s"],"lookups":["l"]}],
"tables":[{"name":"a","key":["k"],"columns":[{"name":"k","type":"text"},{"name":"d","type":"decimal(9,2)"}]}],
"statements":[{"name":"s","table":"a","kind":"upsert","set":[{"column":"d","operation":"add"}]}],
"lookups":[{"name":"l","table":"a","by":["k"],"columns":["d"]}]}"#;

/// Small ones, which compile in no time.
fn seeds() -> Vec<Vec<u8>> {
    let silent = Guest::describing(DESCRIPTOR);
    let mut writing = Guest::describing(DESCRIPTOR);
    let answer = writing.changes(&[(0, &[Argument::Text(b"key"), Argument::Decimal("1.5")])]);
    let writing = writing.project(&format!("(i32.const {answer})"));
    let mut reading = Guest::describing(DESCRIPTOR);
    let key = reading.arguments(&[Argument::Text(b"key")]);
    let answer = reading.calls(&[(0, key, 1)]);
    // `needs` is laid out like `changes`, and is the third of the outcomes.
    let reading = reading
        .project(&format!("(i32.store8 (i32.const {}) (i32.const 2)) (i32.const {answer})", answer + 4));
    let spinning = Guest::describing(DESCRIPTOR).project("(loop $forever (br $forever)) (unreachable)");
    [silent, writing, reading, spinning].map(|guest| guest.component()).into()
}
