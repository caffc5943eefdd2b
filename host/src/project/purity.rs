//! Spot-checks that a plugin is a pure function: its answer depends only on the event and on the rows that it is given,
//! and not on state that an instance keeps from earlier calls.
//!
//! For a sample of the batches, each call is repeated in a fresh instance, and the answers are compared. If they differ,
//! the rows depend on how events were batched, and a rebuild would write other rows.

use std::borrow::Cow;
use std::fmt;
use std::time::Instant;

use projector_core::batch::Delivery;
use projector_core::event::{Event, Position};
use projector_core::event_failure::shown;
use projector_core::failure::FailureKind;
use projector_model::{Contract, Value};
use projector_sandbox::{Answer, Found, Instance, Plugin};

use super::call::checked;
use super::{FirstAnswer, FirstAnswers};

/// The check of a batch ends after this many differences.
const MOST: usize = 10;

/// This many events of a new version are compared first. After that, only a share of its batches is checked.
const FIRST_EVENTS: usize = 100;

/// Chooses the batches of the sample: the first batches of a run and of each version that becomes active in it, until
/// 100 events were compared; then the configured share of the batches.
#[derive(Debug)]
pub struct Sampling {
    share: f64,
    due: f64,
    /// How many of the [`FIRST_EVENTS`] are still to be compared.
    first: usize,
}

impl Sampling {
    /// The sampling of a version that has just become active.
    pub fn new(share: f64) -> Self {
        Self { share, due: 0.0, first: if share > 0.0 { FIRST_EVENTS } else { 0 } }
    }

    /// Whether the next batch to commit is in the sample.
    pub fn is_due(&self) -> bool {
        self.first > 0 || self.due >= 1.0
    }

    /// Call after each commit, with the number of events of the batch. Returns whether the batch was in the sample.
    pub fn advance(&mut self, events: usize) -> bool {
        let was_due = self.is_due();
        match self.first {
            0 => self.due += self.share - f64::from(u8::from(was_due)),
            // The first event of a batch is called in a fresh instance both times, so comparing its answers shows
            // nothing. It does not count.
            first => {
                self.first = first.saturating_sub(events.saturating_sub(1));
                self.due = self.share;
            }
        }
        was_due
    }
}

/// A call with rows, and its answer.
#[derive(Debug)]
pub struct Call {
    pub(super) event: Event,
    pub(super) found: Vec<Found>,
    pub(super) answer: FirstAnswer,
}

impl Call {
    /// The bytes of the call in memory.
    pub(super) fn size_bytes(&self) -> usize {
        let found = self.found.iter().map(|(call, rows)| {
            call.size_bytes() + rows.iter().flatten().map(Value::size_bytes).sum::<usize>()
        });
        self.event.size_bytes() + found.sum::<usize>() + self.answer.as_ref().map_or(0, Answer::size_bytes)
    }
}

/// An event for which a fresh instance gave another answer, with the same rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impurity {
    pub position: Position,
    /// The two answers as text for a person: bounded in length, control characters escaped.
    pub outcome: String,
    pub outcome_again: String,
}

impl fmt::Display for Impurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, outcome, outcome_again } = self;
        write!(
            f,
            "the event at {position} led to {outcome}; the same call in a fresh instance led to {outcome_again}"
        )
    }
}

/// Repeats the calls of a batch. Logs and returns the events that got another answer. Blocks, for about the time limit
/// of a batch at most.
pub fn check(plugin: &Plugin, batch: &[Delivery], answers: &[FirstAnswers], calls: &[Call]) -> Vec<Impurity> {
    let began = Instant::now();
    let first = batch.iter().zip(answers).flat_map(|(delivery, answers)| {
        let topics = answers.iter().enumerate();
        topics.map(move |(nth, answer)| (delivery.event.as_of(nth), &[][..], answer))
    });
    let with_rows = calls.iter().map(|call| (Cow::Borrowed(&call.event), &call.found[..], &call.answer));
    let mut impurities: Vec<Impurity> = Vec::new();
    for (event, found, answer) in first.chain(with_rows) {
        if impurities.iter().any(|impurity| impurity.position == event.position) {
            continue;
        }
        // `silent`: the plugin's log lines were logged by the first call already.
        let again =
            Instance::silent(plugin).and_then(|mut instance| checked(plugin, &mut instance, &event, found));
        if is_of_plugin(answer) && is_of_plugin(&again) && *answer != again {
            let impurity = Impurity {
                position: event.position.clone(),
                outcome: shown(Shown(&plugin.contract, answer, &again)),
                outcome_again: shown(Shown(&plugin.contract, &again, answer)),
            };
            report(plugin, &impurity);
            impurities.push(impurity);
        }
        if impurities.len() == MOST || began.elapsed() >= plugin.limits.batch.time {
            break;
        }
    }
    impurities
}

/// Whether an answer comes from the plugin alone. A timeout depends on this machine, and a refusal on the database: both
/// may differ for a pure function too.
fn is_of_plugin(answer: &FirstAnswer) -> bool {
    let kind = answer.as_ref().err().map(|failure| failure.kind);
    !matches!(kind, Some(FailureKind::Timeout | FailureKind::Refused))
}

fn report(plugin: &Plugin, impurity: &Impurity) {
    tracing::error!(
        projection = plugin.contract.name(),
        version = plugin.contract.descriptor.version,
        position = %impurity.position,
        outcome = impurity.outcome,
        outcome_again = impurity.outcome_again,
        "the plugin is not a pure function: in a fresh instance, the same event with the same rows led to another outcome. A rebuild may write other rows"
    );
}

/// Formats an answer (the second field) that differs from another one (the third). Of two lists of changes, the changes
/// that both begin with are left out.
struct Shown<'a>(&'a Contract, &'a FirstAnswer, &'a FirstAnswer);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown(contract, answer, other) = self;
        match answer {
            Ok(Answer::Changes(changes)) => {
                let same = match other {
                    Ok(Answer::Changes(others)) => {
                        changes.iter().zip(others).take_while(|(one, other)| one == other).count()
                    }
                    _ => 0,
                };
                write!(f, "{} changes", changes.len())?;
                if same > 0 {
                    write!(f, ", after the first {same}")?;
                }
                f.write_str(":")?;
                changes[same..].iter().try_for_each(|change| {
                    let name = &contract.writes[usize::from(change.statement)].name;
                    call(f, name, &change.arguments)
                })
            }
            Ok(Answer::Needs(calls)) => {
                f.write_str("it needs rows:")?;
                calls.iter().try_for_each(|needed| {
                    let name = &contract.lookups[usize::from(needed.lookup)].name;
                    call(f, name, &needed.arguments)
                })
            }
            Ok(Answer::Ignored { code, detail }) => write!(f, "ignored ({code}): {detail}"),
            Err(failure) => write!(f, "{failure}"),
        }
    }
}

fn call(f: &mut fmt::Formatter<'_>, name: &str, arguments: &[Value]) -> fmt::Result {
    write!(f, " {name}(")?;
    for (at, argument) in arguments.iter().enumerate() {
        let separator = if at == 0 { "" } else { ", " };
        write!(f, "{separator}{argument}")?;
    }
    f.write_str(")")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these batches, by their numbers of events, are in the sample.
    fn sampled(share: f64, batches: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut sampling = Sampling::new(share);
        batches
            .into_iter()
            .enumerate()
            .filter_map(|(at, events)| sampling.advance(events).then_some(at))
            .collect()
    }

    #[test]
    fn the_first_batches_are_in_the_sample_and_then_their_share() {
        assert_eq!(sampled(0.25, [FIRST_EVENTS + 1; 10]), [0, 4, 8]);
        assert_eq!(sampled(1.0, [1_000; 3]), [0, 1, 2]);
        assert_eq!(sampled(0.001, [1_000; 999]), [0]);
        // A batch of one event shows nothing.
        assert_eq!(sampled(0.001, [1, 1, 51, 1, 51, 1, 1_000]), [0, 1, 2, 3, 4]);
        assert!(sampled(0.0, [1_000; 1_000]).is_empty());
    }
}
