//! Decides the outcomes of a batch inside its transaction.
//!
//! An event may ask for rows in several rounds. When the first event of the batch reaches a round, the rows that later
//! events will probably ask for in this round are read in the same query: one query for the batch instead of one for
//! each event. To know what a later event will ask for, its answer is *predicted*: the plugin is called before the
//! event's turn, with the rows as they are now. If an event before it then changes these rows, the plugin is called
//! again in the event's turn. So reading ahead saves time and never changes an outcome.

use std::borrow::Cow;
use std::collections::HashMap;

use projector_core::awaited::{self, AwaitedRow};
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_core::ordering::KeyId;
use projector_core::outcome::Outcome;
use projector_model::change::codes;
use projector_model::{Contract, LookupCall};
use projector_sandbox::{Answer, Found};

use super::overlay::Overlay;
use super::{Answered, FirstAnswer, Keys, ProjectError, Read, Respondent, Room};

/// How many times an event may ask for rows.
const ROUNDS: usize = 3;

/// Decides the outcome of each event, in order. Blocks. A duplicate is ignored. An event of a blocked key is parked
/// without a call of the plugin.
///
/// An event of several logical topics has an answer for each of them, in declared order, and one outcome. It fails if
/// one answer is a failure. If all answers ignore it, it is ignored, with the code of the first. Otherwise it is
/// applied, with the changes of all answers. The call for a later topic sees the changes of the earlier ones.
///
/// Returns the outcomes of events from the front of the batch, at least one. The other events begin the next batch, for
/// one of these reasons: a lookup may miss changes of this batch; the rows that the lookups find exceed the limits of
/// this batch; the plugin must be called again, and this batch has used up its fuel, time or bytes; or an event failed
/// or waits after some of its changes were applied to the overlay.
pub fn resolve<'a, 'r>(
    respondent: &'r mut dyn Respondent,
    batch: Answered<'a, 'r>,
    keys: Keys,
    read: &'r mut Read<'r>,
) -> Result<Vec<Outcome<'a>>, ProjectError> {
    let contract = respondent.contract().clone();
    let mut resolver = Resolver {
        batch,
        keys,
        contract: &contract,
        overlay: Overlay::new(&contract),
        room: respondent.room(),
        respondent,
        read,
        rounds_read: 0,
        predicted: HashMap::new(),
        predicted_bytes: 0,
        overlay_is_wrong: false,
    };
    let mut outcomes = Vec::with_capacity(batch.events.len());
    for at in 0..batch.events.len() {
        match resolver.resolve(at)? {
            Some(outcome) => outcomes.push(outcome),
            None => break,
        }
        if resolver.overlay_is_wrong {
            break;
        }
    }
    Ok(outcomes)
}

struct Resolver<'a, 'r, 'c> {
    batch: Answered<'a, 'r>,
    keys: Keys,
    contract: &'c Contract,
    respondent: &'r mut dyn Respondent,
    overlay: Overlay<'c>,
    read: &'r mut Read<'r>,
    room: Room,
    /// How many rounds of lookups were read for the whole batch.
    rounds_read: usize,
    /// Answers from calls before the event's turn, by event and place among its logical topics. The plugin is a pure
    /// function, so in the event's turn it would give the same answer to the same rows.
    predicted: HashMap<(usize, usize), Vec<Predicted>>,
    /// The bytes of the rows that are kept with these answers.
    predicted_bytes: usize,
    /// The overlay has changes of an event that then failed, or waits, for another of its logical topics. These changes
    /// are not written, so the batch ends after this event.
    overlay_is_wrong: bool,
}

/// The rows that were passed to the plugin before the event's turn, and its answer.
type Predicted = (Vec<Found>, FirstAnswer);

impl<'a> Resolver<'a, '_, '_> {
    /// `None`: the batch ends before this event.
    fn resolve(&mut self, at: usize) -> Result<Option<Outcome<'a>>, ProjectError> {
        let topics = self.batch.events[at].event.topic_count();
        if (0..topics).all(|nth| self.is_duplicate(at, nth)) {
            return Ok(Some(Outcome::Ignore { code: codes::DUPLICATE.into() }));
        }
        if let Some(key) = self.parked_under(at) {
            return Ok(Some(Outcome::Park(key)));
        }
        let mut so_far: Option<Outcome<'a>> = None;
        for nth in 0..topics {
            let outcome = match self.is_duplicate(at, nth) {
                true => Outcome::Ignore { code: codes::DUPLICATE.into() },
                false => match self.resolve_for(at, nth)? {
                    Some(outcome) => outcome,
                    None => return Ok(None),
                },
            };
            if let Outcome::Dead { failure, .. } = outcome {
                self.overlay_is_wrong = matches!(so_far, Some(Outcome::Apply(_)));
                let failure = self.with_topic_name(failure, at, nth);
                return Ok(Some(Outcome::Dead { failure, blocks: self.block(at) }));
            }
            if let Outcome::Wait { line, .. } = &outcome {
                self.overlay_is_wrong = matches!(so_far, Some(Outcome::Apply(_)));
                self.keys.blocked.insert(*line);
                return Ok(Some(outcome));
            }
            if let Outcome::Apply(changes) = &outcome {
                self.overlay.apply(changes);
            }
            so_far = Some(match so_far {
                None => outcome,
                Some(before) => before.and(outcome),
            });
        }
        Ok(so_far)
    }

    /// The outcome of an event for the `nth` of its logical topics. Does not block its key. `None`: the batch ends
    /// before this event.
    fn resolve_for(&mut self, at: usize, nth: usize) -> Result<Option<Outcome<'a>>, ProjectError> {
        let mut predicted = self.predicted.remove(&(at, nth)).unwrap_or_default();
        let mut answer = match self.batch.answers[at].nth(nth) {
            Some(answer) => Cow::Borrowed(answer),
            // There is no first answer: the first calls ended at an earlier topic whose answer is a failure. For that
            // topic the event is a duplicate, so the failure does not count, and this topic needs its answer now.
            None => Cow::Owned(self.respondent.call(&self.batch.events[at].event.as_of(nth), &[])?),
        };
        let mut found: Vec<Found> = Vec::new();
        let mut found_bytes = 0;
        let mut round = 0;
        loop {
            let calls = match needs(answer) {
                Needs::Rows(calls) => calls,
                Needs::Nothing(outcome) => return Ok(Some(outcome)),
            };
            if is_not_yet(&calls, &found) {
                return Ok(Some(self.not_yet(at, nth, &calls[0])));
            }
            if round == ROUNDS || calls.is_empty() {
                let detail =
                    format!("the plugin still asks for rows after {ROUNDS} rounds, or asks for no row");
                return Ok(Some(limit("rounds", &detail)));
            }
            if calls.iter().any(|call| self.overlay.may_miss_changes(call)) {
                // A later event begins the next batch, where the changes before it are committed. For the first event,
                // only its own changes for another topic can be missed: a smaller batch would not help, so it fails.
                return Ok((at == 0).then(|| {
                    limit(
                        "lookup",
                        "the event looks up rows by other columns than the key, in a table that it has changed as an event of another logical topic: declare that topic after this one, or look up the rows by their key",
                    )
                }));
            }
            if !self.overlay.knows(&calls) {
                self.read_ahead(at, round, &calls)?;
            }
            // The first event may use its whole limit, even if the batch's limit for reads is used up: otherwise it
            // could never be projected.
            if at == 0 {
                self.read_for_first_event(&calls, self.room.of_event.saturating_sub(found_bytes))?;
            }
            if !self.overlay.knows(&calls) {
                return Ok((at == 0).then(|| self.too_much()));
            }
            found_bytes += self.overlay.size_bytes(&calls);
            if found_bytes > self.room.of_event {
                return Ok(Some(self.too_much()));
            }
            self.overlay.show(&calls, &mut found);
            answer = Cow::Owned(match predicted.iter().position(|(shown, _)| *shown == found) {
                Some(at) => predicted.swap_remove(at).1,
                None if at > 0 && self.respondent.has_used(1.0) => return Ok(None),
                None => self.respondent.call(&self.batch.events[at].event.as_of(nth), &found)?,
            });
            round += 1;
        }
    }

    /// An event asks again for rows that it was given already: this means *not yet*, so it waits for the row of its
    /// first call. If the topic or the lookup does not permit a wait, the event fails.
    fn not_yet(&self, at: usize, nth: usize, call: &LookupCall) -> Outcome<'a> {
        let event = &self.batch.events[at].event;
        let topic = &self.contract.topics[usize::from(event.nth_topic(nth))];
        let lookup = &self.contract.lookups[usize::from(call.lookup)].name;
        let undeclared = |detail: String| {
            let failure = Failure::new(FailureKind::Invalid, codes::INVALID_CHANGE, detail);
            Outcome::Dead { failure: Cow::Owned(failure), blocks: None }
        };
        let Some(seconds) = topic.wait_seconds else {
            return undeclared(format!(
                "the plugin asks again for the rows of {lookup}, which it was given already. This means that the event waits for a row, but topic {} does not declare `wait-seconds`",
                topic.name
            ));
        };
        match AwaitedRow::of(self.contract, call, event, seconds) {
            None => undeclared(format!(
                "the event waits for a row of {lookup}, and this lookup is not by the key of its table: an event can wait only for the row of a key"
            )),
            Some(row) if at < self.keys.never_wait => {
                Outcome::Dead { failure: Cow::Owned(awaited::failure(&row.name)), blocks: None }
            }
            Some(row) => Outcome::Wait { row, line: KeyId::line(self.contract, event) },
        }
    }

    fn too_much(&self) -> Outcome<'a> {
        limit(
            "found",
            &format!(
                "the rows that its lookups find have more than {} bytes, the limit `limits.found-bytes`: let the lookups find fewer rows or fewer columns",
                self.room.of_event
            ),
        )
    }

    /// Adds to the failure of an event of several logical topics for which of them it failed.
    fn with_topic_name(&self, failure: Cow<'a, Failure>, at: usize, nth: usize) -> Cow<'a, Failure> {
        let event = &self.batch.events[at].event;
        // The database refuses the changes of all topics together, so no single topic is the cause.
        if event.also.is_empty() || failure.kind == FailureKind::Refused {
            return failure;
        }
        let logical = &self.contract.topics[usize::from(event.nth_topic(nth))].name;
        let mut failure = failure.into_owned();
        failure.detail.insert_str(0, &format!("as an event of {logical}: "));
        Cow::Owned(failure)
    }

    /// Reads the rows that an event asks for in a round. The first event that reaches a round also reads what later
    /// events will ask for in this round, as predicted from the rows as they are now. If a later event asks for other
    /// rows in its turn, these are read then. Reads no more bytes than the batch's limit leaves.
    fn read_ahead(&mut self, at: usize, round: usize, calls: &[LookupCall]) -> Result<(), ProjectError> {
        let mut needs = calls.to_vec();
        if self.rounds_read <= round {
            self.rounds_read = round + 1;
            'batch: for later in at + 1..self.batch.events.len() {
                for nth in 0..self.batch.events[later].event.topic_count() {
                    match self.predict(later, nth, round) {
                        // The batch will end before this event, so nothing is read for it or for later ones.
                        Some(calls) if calls.iter().any(|call| self.overlay.may_miss_changes(call)) => {
                            break 'batch;
                        }
                        Some(calls) => needs.extend(calls),
                        None => {}
                    }
                }
            }
        }
        let left = self.room.of_batch.saturating_sub(self.overlay.read_bytes());
        if left > 0 {
            self.overlay.load(&needs, left, self.read)?;
        }
        Ok(())
    }

    /// Reads the rows that the first event of a batch asks for, up to `most_bytes`. The lookups of one read share the
    /// bytes that are left, so a lookup that did not get enough is tried again with what the others did not use. Ends
    /// when all rows were read, or when a read answers no further lookup: then the rows exceed the limit.
    fn read_for_first_event(&mut self, calls: &[LookupCall], most_bytes: usize) -> Result<(), ProjectError> {
        let before = self.overlay.read_bytes();
        while !self.overlay.knows(calls) {
            let left = most_bytes.saturating_sub(self.overlay.read_bytes() - before);
            if !self.overlay.load(calls, left, self.read)? {
                break;
            }
        }
        Ok(())
    }

    /// The rows that an event will ask for in a round, for the `nth` of its logical topics, if the rows that were read
    /// suffice to predict this.
    fn predict(&mut self, at: usize, nth: usize, round: usize) -> Option<Vec<LookupCall>> {
        if self.is_duplicate(at, nth) || self.parked_under(at).is_some() {
            return None;
        }
        let Some(Ok(Answer::Needs(calls))) = self.batch.answers[at].nth(nth) else { return None };
        let mut calls = calls.clone();
        let mut found = Vec::new();
        let mut found_bytes = 0;
        for _ in 0..round {
            if !self.overlay.knows(&calls) {
                return None;
            }
            found_bytes += self.overlay.size_bytes(&calls);
            if found_bytes > self.room.of_event {
                return None;
            }
            self.overlay.show(&calls, &mut found);
            let predicted = self.predicted.entry((at, nth)).or_default();
            let place = match predicted.iter().position(|(shown, _)| *shown == found) {
                Some(place) => place,
                // Use at most half of the batch's limits for predictions, so that the rest is left for the events' own
                // turns. If the batch ends before an event, its predicted answers are lost.
                None if self.respondent.has_used(0.5) => return None,
                None if self.predicted_bytes >= self.room.of_batch => return None,
                None => {
                    self.predicted_bytes += found_bytes;
                    // A timeout is ignored here: if the event is slow, it happens again in its own turn.
                    let answer =
                        self.respondent.call(&self.batch.events[at].event.as_of(nth), &found).ok()?;
                    predicted.push((found.clone(), answer));
                    predicted.len() - 1
                }
            };
            let Ok(Answer::Needs(next)) = &predicted[place].1 else { return None };
            if is_not_yet(next, &found) {
                return None;
            }
            calls = next.clone();
        }
        Some(calls)
    }

    /// The key or line under which an event is parked: its key, if an earlier event of it failed; its line, if an
    /// earlier event of it waits for a row. `None`: the event is not parked.
    fn parked_under(&self, at: usize) -> Option<KeyId> {
        if self.keys.blocked.is_empty() {
            return None;
        }
        KeyId::all_of(self.contract, &self.batch.events[at].event).find(|key| self.keys.blocked.contains(key))
    }

    /// Blocks the key of a failed event, if the policy parks and the event has a key: later events of the key are
    /// parked.
    fn block(&mut self, at: usize) -> Option<KeyId> {
        let key = KeyId::of(self.contract, &self.batch.events[at].event).filter(|_| self.keys.park)?;
        self.keys.blocked.insert(key);
        Some(key)
    }

    fn is_duplicate(&self, at: usize, nth: usize) -> bool {
        self.batch.duplicates.get(at).is_some_and(|duplicate| duplicate.get(nth) == Some(&true))
    }
}

fn is_not_yet(calls: &[LookupCall], found: &[Found]) -> bool {
    LookupCall::means_not_yet(calls, found.iter().map(|(shown, _)| shown))
}

/// The outcome of an event that fails because it asks for more than a limit allows.
fn limit<'a>(code: &str, detail: &str) -> Outcome<'a> {
    let failure = Failure::new(FailureKind::Limit, code, detail);
    Outcome::Dead { failure: Cow::Owned(failure), blocks: None }
}

/// What an answer needs before there is an outcome.
enum Needs<'r> {
    Rows(Vec<LookupCall>),
    Nothing(Outcome<'r>),
}

fn needs(answer: Cow<'_, FirstAnswer>) -> Needs<'_> {
    Needs::Nothing(match answer {
        Cow::Borrowed(Ok(Answer::Needs(calls))) => return Needs::Rows(calls.clone()),
        Cow::Owned(Ok(Answer::Needs(calls))) => return Needs::Rows(calls),
        Cow::Borrowed(Ok(Answer::Changes(changes))) => Outcome::Apply(Cow::Borrowed(changes)),
        Cow::Owned(Ok(Answer::Changes(changes))) => Outcome::Apply(Cow::Owned(changes)),
        Cow::Borrowed(Ok(Answer::Ignored { code, .. })) => Outcome::Ignore { code: Cow::Borrowed(code) },
        Cow::Owned(Ok(Answer::Ignored { code, .. })) => Outcome::Ignore { code: Cow::Owned(code) },
        Cow::Borrowed(Err(failure)) => Outcome::Dead { failure: Cow::Borrowed(failure), blocks: None },
        Cow::Owned(Err(failure)) => Outcome::Dead { failure: Cow::Owned(failure), blocks: None },
    })
}
