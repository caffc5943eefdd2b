//! Decides the outcomes of a batch inside its transaction.
//!
//! An event may ask for rows in several rounds. When an event is the first to reach a round, the rows of that round are
//! read for all later events as well, as far as it can be foreseen which they will ask for. A later event whose rows were changed meanwhile
//! is asked again in its own turn, so reading ahead saves time and never changes an outcome.

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
/// without asking the plugin.
///
/// An event of several logical topics has an answer for each, in declared order, and one outcome: it fails
/// if one of them does; otherwise it is applied, with the changes of all, unless all ignore it, which counts
/// under the code of the first. A later one is shown the rows as the earlier ones made them.
///
/// Returns outcomes for the first events, at least one. The others must begin the next batch, for one of these reasons: a
/// lookup could find rows that this batch has not written yet; the rows that it finds exceed the limits of this batch; or
/// the plugin must be called again, and this batch has used its fuel, its time or its bytes.
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
        foreseen: HashMap::new(),
        foreseen_bytes: 0,
        is_spoilt: false,
    };
    let mut outcomes = Vec::with_capacity(batch.events.len());
    for at in 0..batch.events.len() {
        match resolver.resolve(at)? {
            Some(outcome) => outcomes.push(outcome),
            None => break,
        }
        if resolver.is_spoilt {
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
    /// Answers that were asked for ahead, by event and place among its logical topics. The plugin is a pure function,
    /// so it would give the same answer to the same rows in its turn.
    foreseen: HashMap<(usize, usize), Vec<Foreseen>>,
    /// The bytes of the rows that are kept with these answers.
    foreseen_bytes: usize,
    /// The overlay has changes of an event that failed for another of its topics. So the batch ends with that event.
    is_spoilt: bool,
}

/// The rows that an event was shown before its turn, and its answer.
type Foreseen = (Vec<Found>, FirstAnswer);

impl<'a> Resolver<'a, '_, '_> {
    /// `None`: the batch ends before this event.
    fn resolve(&mut self, at: usize) -> Result<Option<Outcome<'a>>, ProjectError> {
        let topics = self.batch.events[at].event.topic_count();
        if (0..topics).all(|nth| self.is_duplicate(at, nth)) {
            return Ok(Some(Outcome::Ignore { code: codes::DUPLICATE.into() }));
        }
        if let Some(key) = self.waits_behind(at) {
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
                self.is_spoilt = matches!(so_far, Some(Outcome::Apply(_)));
                let failure = self.naming_the_topic(failure, at, nth);
                return Ok(Some(Outcome::Dead { failure, blocks: self.block(at) }));
            }
            if let Outcome::Wait { line, .. } = &outcome {
                self.is_spoilt = matches!(so_far, Some(Outcome::Apply(_)));
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

    /// What an event leads to for the `nth` of its logical topics, without blocking its key.
    fn resolve_for(&mut self, at: usize, nth: usize) -> Result<Option<Outcome<'a>>, ProjectError> {
        let mut foreseen = self.foreseen.remove(&(at, nth)).unwrap_or_default();
        let mut answer = match self.batch.answers[at].nth(nth) {
            Some(answer) => Cow::Borrowed(answer),
            // Not asked yet: the answer for an earlier topic failed, and there the event is a duplicate.
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
                let detail = format!("it still asks for rows after {ROUNDS} rounds, or asks for none");
                return Ok(Some(limit("rounds", &detail)));
            }
            if calls.iter().any(|call| self.overlay.is_unsure(call)) {
                // The first event is unsure only because of its own changes: a smaller batch would not help. A later
                // event begins the next batch, where the changes before it are committed.
                return Ok((at == 0).then(|| {
                    limit(
                        "lookup",
                        "it looks up rows by other columns than the key, in a table that the event changed as one of another logical topic: declare that topic after this one, or look the rows up by their key",
                    )
                }));
            }
            if !self.overlay.knows(&calls) {
                self.read_ahead(at, round, &calls)?;
            }
            if at == 0 {
                self.read_for_itself(&calls, self.room.of_event.saturating_sub(found_bytes))?;
            }
            if !self.overlay.knows(&calls) {
                return Ok((at == 0).then(|| self.too_much()));
            }
            found_bytes += self.overlay.size_bytes(&calls);
            if found_bytes > self.room.of_event {
                return Ok(Some(self.too_much()));
            }
            self.overlay.show(&calls, &mut found);
            answer = Cow::Owned(match foreseen.iter().position(|(shown, _)| *shown == found) {
                Some(at) => foreseen.swap_remove(at).1,
                None if at > 0 && self.respondent.has_used(1.0) => return Ok(None),
                None => self.respondent.call(&self.batch.events[at].event.as_of(nth), &found)?,
            });
            round += 1;
        }
    }

    /// An event asks again for rows that it was shown already: it waits for that row.
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
                "it asks for {lookup} again, which it was shown: an event of {} that waits for a row declares `wait-seconds`",
                topic.name
            ));
        };
        match AwaitedRow::of(self.contract, call, event, seconds) {
            None => undeclared(format!(
                "it waits for rows by {lookup}, and only the row of a key can be waited for"
            )),
            Some(row) if at < self.keys.impatient => {
                Outcome::Dead { failure: Cow::Owned(awaited::failure(&row.name)), blocks: None }
            }
            Some(row) => Outcome::Wait { row, line: KeyId::line(self.contract, event) },
        }
    }

    fn too_much(&self) -> Outcome<'a> {
        limit(
            "found",
            &format!(
                "the rows that its lookups find weigh more than {} bytes, which `limits.found-bytes` allows: have them find fewer rows, or fewer columns of them",
                self.room.of_event
            ),
        )
    }

    /// Of an event of several logical topics: for which of them it failed.
    fn naming_the_topic(&self, failure: Cow<'a, Failure>, at: usize, nth: usize) -> Cow<'a, Failure> {
        let event = &self.batch.events[at].event;
        // The database refuses the changes of all topics together, so no single topic is to blame.
        if event.also.is_empty() || failure.kind == FailureKind::Refused {
            return failure;
        }
        let logical = &self.contract.topics[usize::from(event.nth_topic(nth))].name;
        let mut failure = failure.into_owned();
        failure.detail.insert_str(0, &format!("as an event of {logical}: "));
        Cow::Owned(failure)
    }

    /// Reads what an event asks for in a round, and with it, the first time, what all later events
    /// will ask for in that round, if they are shown the rows as they are now. Those that are shown
    /// others in their turn may ask for others; that is read when they do. Of all that, no more than the
    /// batch has room for.
    fn read_ahead(&mut self, at: usize, round: usize, calls: &[LookupCall]) -> Result<(), ProjectError> {
        let mut needs = calls.to_vec();
        if self.rounds_read <= round {
            self.rounds_read = round + 1;
            'batch: for later in at + 1..self.batch.events.len() {
                for nth in 0..self.batch.events[later].event.topic_count() {
                    match self.foresee(later, nth, round) {
                        // The batch will end there.
                        Some(calls) if calls.iter().any(|call| self.overlay.is_unsure(call)) => break 'batch,
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

    /// Reads what the first event of a batch asks for, as far as it may find so much. Lookups share the room of
    /// a read, so what one did not need is for the others in the next: if nothing fits any more, all of it
    /// weighs more than it may.
    fn read_for_itself(&mut self, calls: &[LookupCall], most_bytes: usize) -> Result<(), ProjectError> {
        let before = self.overlay.read_bytes();
        while !self.overlay.knows(calls) {
            let left = most_bytes.saturating_sub(self.overlay.read_bytes() - before);
            if !self.overlay.load(calls, left, self.read)? {
                break;
            }
        }
        Ok(())
    }

    /// What an event will ask for in a round, for the `nth` of its logical topics, as far as that can be told
    /// from the rows that were read.
    fn foresee(&mut self, at: usize, nth: usize, round: usize) -> Option<Vec<LookupCall>> {
        if self.is_duplicate(at, nth) || self.waits_behind(at).is_some() {
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
            let foreseen = self.foreseen.entry((at, nth)).or_default();
            let place = match foreseen.iter().position(|(shown, _)| *shown == found) {
                Some(place) => place,
                // Leave the rest of the limits to the events' own turns: answers that were asked for ahead are lost
                // if the batch ends before.
                None if self.respondent.has_used(0.5) => return None,
                None if self.foreseen_bytes >= self.room.of_batch => return None,
                None => {
                    self.foreseen_bytes += found_bytes;
                    // A timeout here is ignored: it happens again in the event's own turn.
                    let answer =
                        self.respondent.call(&self.batch.events[at].event.as_of(nth), &found).ok()?;
                    foreseen.push((found.clone(), answer));
                    foreseen.len() - 1
                }
            };
            let Ok(Answer::Needs(next)) = &foreseen[place].1 else { return None };
            if is_not_yet(next, &found) {
                return None;
            }
            calls = next.clone();
        }
        Some(calls)
    }

    /// The key of an event, if an earlier one of it failed; or its line, if an earlier one of that waits.
    fn waits_behind(&self, at: usize) -> Option<KeyId> {
        if self.keys.blocked.is_empty() {
            return None;
        }
        KeyId::all_of(self.contract, &self.batch.events[at].event).find(|key| self.keys.blocked.contains(key))
    }

    /// An event fails: from here on, those of its key wait, if it has one.
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

/// An event that asks for what it cannot be given.
fn limit<'a>(code: &str, detail: &str) -> Outcome<'a> {
    let failure = Failure::new(FailureKind::Limit, code, detail);
    Outcome::Dead { failure: Cow::Owned(failure), blocks: None }
}

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
