//! A plugin that rejects an event, or lets it wait, until its gate is open. Each key has a trail of its events, in the
//! order in which they were applied. So an event that is lost, applied twice or out of order is visible.

use projector_sdk::prelude::*;
use serde::Deserialize;

/// A gate that is open. A closed gate has no row.
#[derive(Debug, Clone, PartialEq, Eq, Table)]
#[table(name = "gate")]
pub struct Gate {
    #[key]
    pub id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Table)]
#[table(name = "trail")]
pub struct Trail {
    #[key]
    pub id: String,
    pub steps: String,
}

#[derive(Debug, Deserialize)]
pub struct Step {
    /// The id of the trail.
    pub of: String,
    pub step: String,
    /// The gate that must be open.
    #[serde(default)]
    pub gate: Option<String>,
    /// Whether to panic if the gate is closed, instead of rejecting the event.
    #[serde(default)]
    pub panic: bool,
    /// Whether to wait until the gate is open, instead of rejecting the event.
    #[serde(default)]
    pub wait: bool,
    /// The gate that the event opens.
    #[serde(default)]
    pub opens: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Opened {
    pub gate: String,
}

pub struct Gates;

#[projection(name = "gates", revision = 1, rejects("closed" = "its gate is closed"))]
impl Gates {
    #[on("step.v1", writes(Trail, Gate), reads(Gate, Trail), ordering_group = "steps", waits = "1h")]
    #[on("step.v2", writes(Trail, Gate), reads(Gate, Trail), ordering_group = "steps", waits = "1h")]
    fn step(event: Event<Step>, cx: &mut Context<Self>) -> Outcome {
        let Step { of, step, gate, panic, wait, opens } = event.payload;
        if let (true, Some(gate)) = (wait, &gate) {
            cx.require::<Gate>(gate)?;
        }
        if let Some(gate) = gate
            && cx.get::<Gate>(&gate)?.is_none()
        {
            assert!(!panic, "gate {gate} is closed");
            return cx.reject("closed", gate);
        }
        let step = if step == "where" { event.topic_name.to_owned() } else { step };
        let before = cx.get::<Trail>(&of)?.map(|trail| trail.steps + " ").unwrap_or_default();
        cx.write(Trail { id: of, steps: before + &step });
        if let Some(id) = opens {
            cx.write(Gate { id });
        }
        Ok(())
    }

    #[on("gate.v1", writes(Gate))]
    fn opened(event: Event<Opened>, cx: &mut Context<Self>) -> Outcome {
        cx.write(Gate { id: event.payload.gate });
        Ok(())
    }
}
