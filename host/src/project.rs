//! A batch through the plugin: what each event leads to.
//!
//! [`ask`] calls the plugin once for every event. Most events are answered by that; it needs no
//! database, so it runs ahead, while the batch before it commits. [`resolve`] then runs inside the
//! transaction: events that asked for rows are called again, in order. What a later event is shown is
//! what is stored, as changed by the events before it. The rows are read for all of a batch at once,
//! in each round: see `Resolver::read_ahead`.

mod overlay;
pub mod purity;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use projector_model::change::codes;
use projector_model::interpret::Row;
use projector_model::{Contract, LookupCall};

use crate::awaited::{self, AwaitedRow};
use crate::batch::Delivery;
use crate::duplicate::Again;
use crate::event::{Event, Position};
use crate::event_failure::Failure;
use crate::failure::Blocker;
use crate::failure::FailureKind;
use crate::ordering::{Blocked, KeyId};
use crate::outcome::Outcome;
use crate::plugin::{Answer, Found, Instance, Plugin};
use crate::store::StoreError;
use crate::validate;
use overlay::Overlay;
use purity::Call;

/// How often an event may ask for rows.
const ROUNDS: usize = 3;

/// An event's answer to its first call, without any rows. A failure is confirmed.
pub type FirstAnswer = Result<Answer, Failure>;

/// An event's answers to its first calls: one for each of its logical topics, in declared order, up to the
/// first failure.
#[derive(Debug, Clone, PartialEq)]
pub struct FirstAnswers {
    first: FirstAnswer,
    also: Vec<FirstAnswer>,
}

impl FirstAnswers {
    pub fn failed(failure: Failure) -> Self {
        Self::from(Err(failure))
    }

    pub fn failure(&self) -> Option<&Failure> {
        self.iter().find_map(|answer| answer.as_ref().err())
    }

    pub fn iter(&self) -> impl Iterator<Item = &FirstAnswer> {
        std::iter::once(&self.first).chain(&self.also)
    }

    fn nth(&self, nth: usize) -> Option<&FirstAnswer> {
        self.iter().nth(nth)
    }
}

impl From<FirstAnswer> for FirstAnswers {
    fn from(first: FirstAnswer) -> Self {
        Self { first, also: Vec::new() }
    }
}

#[derive(Debug)]
pub enum ProjectError {
    /// The machine may be at fault: to be tried again.
    Timeout(Position),
    Store(StoreError),
    /// On trial, the version fails for the first event of the batch.
    OnTrial(Failure),
    /// Only a person can say what becomes of the next event.
    Blocker(Blocker),
}

impl From<StoreError> for ProjectError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Reads stored rows: see [`Transaction::read`](crate::store::Transaction::read).
pub type Read<'r> = dyn FnMut(&[LookupCall], usize) -> Result<Vec<Option<Vec<Row>>>, StoreError> + 'r;

/// Who answers to a batch's events: a plugin, through its [`Caller`], or a twin of one that a test wrote.
pub trait Respondent {
    fn contract(&self) -> &Arc<Contract>;

    /// What an event leads to, with the rows that it is shown: held against the contract, and a failure
    /// confirmed. Blocks.
    fn call(&mut self, event: &Event, found: &[Found]) -> Result<FirstAnswer, ProjectError>;

    /// Whether all calls together took this part of what a batch may use.
    fn has_used(&self, part: f64) -> bool;

    /// What the rows may weigh that are found for its events.
    fn room(&self) -> Room;
}

/// How many bytes of rows may be found.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// For one event: it fails beyond.
    pub of_event: usize,
    /// For a batch, beside those of its first event: it ends before the event that finds more.
    pub of_batch: usize,
}

/// Calls the plugin for each event, in one fresh instance. Blocks. See [`first_answers`].
pub fn ask(plugin: &Plugin, batch: &[Delivery]) -> Result<Vec<FirstAnswers>, ProjectError> {
    first_answers(&mut Caller::new(plugin), batch)
}

/// Returns answers for each event, or for fewer, but for one at least: those that remain are to begin
/// the next batch, because this one has used its fuel, its time or its bytes.
pub fn first_answers(
    respondent: &mut dyn Respondent,
    batch: &[Delivery],
) -> Result<Vec<FirstAnswers>, ProjectError> {
    let mut answers = Vec::with_capacity(batch.len());
    for Delivery { event, .. } in batch {
        let mut of_event = FirstAnswers::from(respondent.call(event, &[])?);
        for nth in 1..event.topic_count() {
            if of_event.failure().is_some() {
                break;
            }
            of_event.also.push(respondent.call(&event.as_of(nth), &[])?);
        }
        answers.push(of_event);
        if respondent.has_used(1.0) {
            break;
        }
    }
    Ok(answers)
}

/// Whose events wait behind one that failed, or that waits for a row.
#[derive(Debug, Default)]
pub struct Keys {
    pub blocked: Blocked,
    /// Whether those of an event's key do that fails now.
    pub park: bool,
    /// So many of the first events fail rather than wait for a row.
    pub impatient: usize,
}

/// Brings each event to its outcome, in order. Blocks. What is a duplicate leads to nothing; what is of
/// a blocked key waits, and is not projected.
///
/// An event of several logical topics has an answer for each, in declared order, and one outcome: it fails
/// if one of them does; otherwise it is applied, with the changes of all, unless all ignore it, which counts
/// under the code of the first. A later one is shown the rows as the earlier ones made them.
///
/// Returns an outcome for each event, or for fewer, but for one at least: those that remain are to
/// begin the next batch, because a lookup of theirs could find rows that this one has not written
/// yet, because the rows that it finds are too many for this one, or because they are to be called and this
/// one has used its fuel, its time or its bytes.
pub fn resolve<'a, 'r>(
    respondent: &'r mut dyn Respondent,
    batch: &'r [Delivery],
    answers: &'a [FirstAnswers],
    duplicates: &'r [Again],
    keys: Keys,
    read: &'r mut Read<'r>,
) -> Result<Vec<Outcome<'a>>, ProjectError> {
    let contract = respondent.contract().clone();
    let mut resolver = Resolver {
        batch,
        answers,
        duplicates,
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
    let mut outcomes = Vec::with_capacity(batch.len());
    for at in 0..batch.len() {
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
    batch: &'r [Delivery],
    answers: &'a [FirstAnswers],
    duplicates: &'r [Again],
    keys: Keys,
    contract: &'c Contract,
    respondent: &'r mut dyn Respondent,
    overlay: Overlay<'c>,
    read: &'r mut Read<'r>,
    room: Room,
    /// Rounds whose rows were read for all of the batch.
    rounds_read: usize,
    /// By event and place among its logical topics. The plugin is a pure function, so that is what it would
    /// answer to the same rows in its turn.
    foreseen: HashMap<(usize, usize), Vec<Foreseen>>,
    /// What the rows weigh that are kept with these answers.
    foreseen_bytes: usize,
    /// The overlay holds changes of an event that failed for another of its topics: the batch ends with it.
    is_spoilt: bool,
}

/// The rows that an event was shown before its turn, and its answer.
type Foreseen = (Vec<Found>, FirstAnswer);

impl<'a> Resolver<'a, '_, '_> {
    /// `None`: the batch ends before this event.
    fn resolve(&mut self, at: usize) -> Result<Option<Outcome<'a>>, ProjectError> {
        let topics = self.batch[at].event.topic_count();
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
        let mut answer = match self.answers[at].nth(nth) {
            Some(answer) => Cow::Borrowed(answer),
            // Not asked yet: an earlier one failed, of which the event turns out to be a duplicate.
            None => Cow::Owned(self.respondent.call(&self.batch[at].event.as_of(nth), &[])?),
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
                // Alone in its batch, it waits for what it wrote itself.
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
                None => self.respondent.call(&self.batch[at].event.as_of(nth), &found)?,
            });
            round += 1;
        }
    }

    /// An event needs a row that it was shown, or shown to be missing: it waits for it.
    fn not_yet(&self, at: usize, nth: usize, call: &LookupCall) -> Outcome<'a> {
        let event = &self.batch[at].event;
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
        let event = &self.batch[at].event;
        // The database refuses the changes of all of them together.
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
            'batch: for later in at + 1..self.batch.len() {
                for nth in 0..self.batch[later].event.topic_count() {
                    match self.foresee(later, nth, round) {
                        // There the batch will end.
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
        let Some(Ok(Answer::Needs(calls))) = self.answers[at].nth(nth) else { return None };
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
                // The rest is for their turns: what they answer ahead is lost where the batch ends.
                None if self.respondent.has_used(0.5) => return None,
                None if self.foreseen_bytes >= self.room.of_batch => return None,
                None => {
                    self.foreseen_bytes += found_bytes;
                    // If it runs out of time, it will do so again in its turn.
                    let answer = self.respondent.call(&self.batch[at].event.as_of(nth), &found).ok()?;
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
        KeyId::all_of(self.contract, &self.batch[at].event).find(|key| self.keys.blocked.contains(key))
    }

    /// An event fails: from here on, those of its key wait, if it has one.
    fn block(&mut self, at: usize) -> Option<KeyId> {
        let key = KeyId::of(self.contract, &self.batch[at].event).filter(|_| self.keys.park)?;
        self.keys.blocked.insert(key);
        Some(key)
    }

    fn is_duplicate(&self, at: usize, nth: usize) -> bool {
        self.duplicates.get(at).is_some_and(|duplicate| duplicate.get(nth) == Some(&true))
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

/// Calls the plugin for a batch; a failure is confirmed by a second call, alone in a fresh instance.
pub struct Caller<'p> {
    plugin: &'p Plugin,
    /// The batch's instance. One that broke off is replaced.
    instance: Option<Instance>,
    fuel: u64,
    time: Duration,
    /// What the answers weigh.
    bytes: usize,
    /// The calls that were made, for a batch of the sample: as many as weigh no more than a batch's answers.
    calls: Option<Vec<Call>>,
    calls_bytes: usize,
}

impl<'p> Caller<'p> {
    pub fn new(plugin: &'p Plugin) -> Self {
        Self { plugin, instance: None, fuel: 0, time: Duration::ZERO, bytes: 0, calls: None, calls_bytes: 0 }
    }

    /// One that keeps its calls, to have them made again.
    pub fn keeping_calls(plugin: &'p Plugin) -> Self {
        Self { calls: Some(Vec::new()), ..Self::new(plugin) }
    }

    pub fn into_calls(self) -> Vec<Call> {
        self.calls.unwrap_or_default()
    }

    fn confirmed(&mut self, event: &Event, found: &[Found]) -> FirstAnswer {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => Instance::new(self.plugin)?,
        };
        let answer = self.counted(&mut instance, event, found);
        if !instance.is_spent() {
            self.instance = Some(instance);
        }
        if answer.is_ok() {
            return answer;
        }
        Instance::new(self.plugin).and_then(|mut alone| self.counted(&mut alone, event, found))
    }

    fn counted(&mut self, instance: &mut Instance, event: &Event, found: &[Found]) -> FirstAnswer {
        let answer = checked(self.plugin, instance, event, found);
        self.fuel = self.fuel.saturating_add(instance.fuel_used());
        answer
    }
}

impl Respondent for Caller<'_> {
    fn contract(&self) -> &Arc<Contract> {
        &self.plugin.contract
    }

    fn call(&mut self, event: &Event, found: &[Found]) -> Result<FirstAnswer, ProjectError> {
        let began = Instant::now();
        let answer = self.confirmed(event, found);
        self.time += began.elapsed();
        self.bytes += answer.as_ref().map_or(0, Answer::size_bytes);
        if let Some(calls) = &mut self.calls
            && self.calls_bytes < self.plugin.limits.batch_bytes
        {
            let call = Call { event: event.clone(), found: found.to_vec(), answer: answer.clone() };
            self.calls_bytes += call.size_bytes();
            calls.push(call);
        }
        match answer {
            Err(failure) if failure.kind == FailureKind::Timeout => {
                Err(ProjectError::Timeout(event.position.clone()))
            }
            answer => Ok(answer),
        }
    }

    /// Counts fuel, time, and the bytes of answers.
    fn has_used(&self, part: f64) -> bool {
        let limits = &self.plugin.limits;
        self.fuel as f64 >= part * limits.batch_fuel as f64
            || self.time >= limits.batch_time.mul_f64(part)
            || self.bytes as f64 >= part * limits.batch_bytes as f64
    }

    fn room(&self) -> Room {
        let limits = &self.plugin.limits;
        Room { of_event: limits.found_bytes, of_batch: limits.batch_bytes }
    }
}

/// One call, its answer held against what is declared.
fn checked(plugin: &Plugin, instance: &mut Instance, event: &Event, found: &[Found]) -> FirstAnswer {
    if let Some(bytes) = event.oversize_bytes {
        return Err(oversize(event, bytes));
    }
    if let Some(header) = event.headers.iter().find(|header| header.text_name().is_none()) {
        return Err(unreadable(event, &header.name));
    }
    let mut answer = instance.project(event, found)?;
    match &mut answer {
        Answer::Changes(changes) => validate::changes(&plugin.contract, event.topic, changes)?,
        Answer::Needs(calls) => validate::lookups(&plugin.contract, event.topic, calls)?,
        Answer::Ignored { .. } => {}
    }
    Ok(answer)
}

/// The contract's header names are text: the plugin is not asked.
fn unreadable(event: &Event, name: &[u8]) -> Failure {
    let detail = format!(
        "the record at {} has a header whose name is not UTF-8, so that no plugin can be given it: \"{}\" (hex {}); mend its producer",
        event.position,
        name.escape_ascii(),
        hex::encode(name)
    );
    Failure::new(FailureKind::Invalid, "header-name", detail)
}

/// Nobody may take this one for a tombstone: the plugin is not asked.
fn oversize(event: &Event, bytes: usize) -> Failure {
    let at = &event.position;
    let detail = format!(
        "its value has {bytes} bytes, more than `kafka.value-bytes`; it was left in the log, at {at}"
    );
    Failure::new(FailureKind::TooLarge, "value-bytes", detail)
}
