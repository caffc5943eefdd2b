//! Dead letters: what failed, and having it tried again or dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use projector_config::Config;
use projector_core::failure::FailureKind;
use projector_core::ordering::KeyId;
use projector_model::Descriptor;
use projector_store::Store;
use projector_store::operator::{
    DeadLetterAction, DeadLetterRecord, Filter, NewOperations, OperationResult, Requester,
};
use serde::Serialize;
use tokio::time::Instant;

use super::{OperationError, used_stores, with_store};

/// How often a verdict is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// A dead letter, and what to do about it.
#[derive(Debug, Serialize)]
pub struct DeadLetter {
    #[serde(flatten)]
    pub letter: DeadLetterRecord,
    pub advice: Option<&'static str>,
}

impl From<DeadLetterRecord> for DeadLetter {
    fn from(letter: DeadLetterRecord) -> Self {
        let advice = FailureKind::from_word(&letter.kind).map(FailureKind::advice);
        Self { letter, advice }
    }
}

/// Dead letters without their payloads, oldest first: of one projection, or of all in all stores.
pub async fn list(config: &Config, filter: &Filter) -> Result<Vec<DeadLetter>, OperationError> {
    let mut letters = Vec::new();
    for store in used_stores(config).await? {
        let found = store.dead_letters(filter).await;
        store.close().await;
        letters.extend(found?.into_iter().map(DeadLetter::from));
    }
    letters.sort_by_key(|dead: &DeadLetter| dead.letter.died_at);
    letters.truncate(usize::try_from(filter.most).unwrap_or(usize::MAX));
    Ok(letters)
}

/// What is asked of some dead letters of one projection.
#[derive(Debug, Clone)]
pub struct Request {
    pub action: DeadLetterAction,
    /// Of the projection that it names.
    pub filter: Filter,
    /// Nothing is written; the verdict names the changes.
    pub dry_run: bool,
    pub asked: Requester,
    /// How long hosts may take to begin, and between one that is done and the next.
    pub timeout: Duration,
}

#[derive(Debug, Serialize)]
pub struct Done {
    pub dead_letter: i64,
    /// Its number among those that are kept.
    pub operation: Option<i64>,
    pub verdict: OperationResult,
}

/// Has dead letters dealt with, by the lanes that are granted their partitions. All of them are asked for at once.
/// Returns what came of each; `progress` is told how many are done, and of how many.
pub async fn request(
    config: &Config,
    name: &str,
    request: &Request,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Done>, OperationError> {
    with_store(config, name, |store, _| async move { request_in(&*store, request, progress).await }).await
}

async fn request_in(
    store: &dyn Store,
    request: &Request,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Done>, OperationError> {
    let letters = store.dead_letters(&request.filter).await?;
    let found = |id: &i64| letters.iter().any(|letter| letter.id == *id);
    let missing: Vec<String> =
        request.filter.ids.iter().filter(|id| !found(id)).map(ToString::to_string).collect();
    if letters.is_empty() || !missing.is_empty() {
        return Err(OperationError::Usage {
            message: match missing.as_slice() {
                [] => "there are no such dead letters".into(),
                missing => format!("there is no such dead letter: {}; nothing was done", missing.join(", ")),
            },
            help: "`projector dlq list` lists all dead letters".into(),
        });
    }
    let asked = NewOperations {
        action: request.action,
        dead_letters: letters.iter().map(|letter| letter.id).collect(),
        dry_run: request.dry_run,
        asked: request.asked.clone(),
    };
    let operations = store.ask(&asked).await?;
    let ids = operations.values().copied().collect();
    let mut verdicts = await_verdicts(store, ids, &letters, (request.timeout, progress)).await?;
    let done = |letter: &DeadLetterRecord| {
        let operation = operations.get(&letter.id).copied();
        // Somebody else dealt with it meanwhile.
        let verdict = operation.and_then(|operation| verdicts.remove(&operation));
        Done {
            dead_letter: letter.id,
            operation,
            verdict: verdict.unwrap_or_else(|| OperationResult::of("gone")),
        }
    };
    Ok(letters.iter().map(done).collect())
}

/// Waits until all of these operations are done. What no host begins for so long after the last one was done is
/// taken back.
async fn await_verdicts(
    store: &dyn Store,
    mut open: BTreeSet<i64>,
    letters: &[DeadLetterRecord],
    (timeout, progress): (Duration, &(dyn Fn(usize, usize) + Sync)),
) -> Result<BTreeMap<i64, OperationResult>, OperationError> {
    let all = open.len();
    let mut verdicts = BTreeMap::new();
    let mut deadline = Instant::now() + timeout;
    while !open.is_empty() {
        let overdue = Instant::now() > deadline;
        let asked: Vec<i64> = open.iter().copied().collect();
        match store.verdicts(&asked).await {
            Ok(done) if !done.is_empty() => {
                open.retain(|operation| !done.contains_key(operation));
                verdicts.extend(done);
                progress(verdicts.len(), all);
                deadline = Instant::now() + timeout;
                continue;
            }
            Ok(_) if overdue => {
                let withdrawn = store.withdraw(&asked).await?;
                return Err(not_begun(withdrawn.len(), (verdicts.len(), all), letters, timeout));
            }
            Err(error) if overdue => return Err(error.into()),
            // They are under way, or will be.
            Ok(_) | Err(_) => {}
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(verdicts)
}

fn not_begun(
    withdrawn: usize,
    (done, all): (usize, usize),
    letters: &[DeadLetterRecord],
    timeout: Duration,
) -> OperationError {
    let under_way = all - done - withdrawn;
    let what = match (done, under_way) {
        (0, 0) => format!("no host began within {timeout:?}, and nothing was done"),
        _ => format!(
            "{done} of {all} dead letters were dealt with; no host began with {withdrawn} of the others within {timeout:?}, and that request is taken back; {under_way} are under way, and go on without this command (`projector operations`)"
        ),
    };
    let (first, topics) = (letters.first(), letters.iter().map(|letter| (&*letter.topic, letter.partition)));
    let topics: BTreeSet<(&str, i32)> = topics.collect();
    let named: Vec<String> =
        topics.iter().take(3).map(|(topic, number)| format!("{topic}/{number}")).collect();
    let name = first.map_or("", |letter| letter.projection.as_str());
    OperationError::Failed(format!(
        "{what}. Is there a running host that reads {}{}, and is {name} not paused? `projector status` shows it",
        named.join(", "),
        if topics.len() > named.len() { ", …" } else { "" },
    ))
}

/// Forgets everything that is kept of a key. Returns how many events those were.
pub async fn erase(
    config: &Config,
    name: &str,
    key: &[u8],
    asked: &Requester,
) -> Result<u64, OperationError> {
    with_store(config, name, |store, _| async move {
        let overview = store.overview().await?;
        let descriptors = overview.iter().filter(|projection| projection.name == name);
        let ids: Vec<KeyId> = descriptors
            .filter_map(|projection| Descriptor::from_json(&projection.descriptor).ok())
            .filter_map(|descriptor| descriptor.check().ok())
            .flat_map(|contract| contract.topics)
            .flat_map(|topic| {
                let group = &topic.ordering_group;
                [KeyId::new(group, key), KeyId::of_line(group, &topic.name, key)]
            })
            .collect();
        let mut erased = 0;
        for standing in store.standings(name).await? {
            erased += store.erase(&standing.generation, key, &ids, asked).await?;
        }
        Ok(erased)
    })
    .await
}

/// The whole of a dead letter.
pub async fn show(config: &Config, name: &str, id: i64) -> Result<DeadLetter, OperationError> {
    let filter = Filter {
        projection: Some(name.to_owned()),
        ids: vec![id],
        whole: true,
        most: 1,
        ..Filter::default()
    };
    let find = with_store(config, name, |store, _| async move { Ok(store.dead_letters(&filter).await?) });
    find.await?.pop().map(DeadLetter::from).ok_or_else(|| OperationError::Usage {
        message: format!("{name} has no dead letter {id}"),
        help: format!("`projector dlq list {name}` shows those that it has"),
    })
}

/// What a verdict says, in a line.
pub fn to_text(verdict: &OperationResult) -> String {
    let OperationResult { outcome, code, detail, applied, ignored, waiting, behind, .. } = verdict;
    let mut words = match verdict.is_settled() {
        true => outcome.clone(),
        false => format!("failed again: {outcome}"),
    };
    if let Some(code) = code {
        words += &format!(" ({code})");
    }
    if let Some(detail) = detail {
        words += &format!(": {detail}");
    }
    if applied + ignored > 0 {
        words += &format!("; of those behind it, {applied} applied and {ignored} ignored");
    }
    match (waiting, behind) {
        (_, Some(behind)) => words += &format!("; {behind} failed in its turn, and {waiting} wait behind it"),
        (0, None) => {}
        (waiting, None) => words += &format!("; {waiting} wait"),
    }
    words
}
