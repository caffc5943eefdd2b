//! Dead letters: listing them, and requests to retry or discard them.
//!
//! A request is stored, and carried out by the hosts' lanes that own the partitions. The command waits for the
//! results. A request that no host starts in time is withdrawn; a host finishes a started request without the
//! command.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use projector_config::Config;
use projector_core::failure::FailureKind;
use projector_core::ordering::KeyId;
use projector_model::Descriptor;
use projector_store::dead_letters::{DeadLetterFilter, DeadLetterRecord};
use projector_store::operations::{DeadLetterAction, NewOperations, OperationResult};
use projector_store::{Requester, Store};
use serde::Serialize;
use tokio::time::Instant;

use super::{OperationError, used_stores, with_store};

/// How often the store is asked for results.
const INTERVAL: Duration = Duration::from_millis(100);

/// A dead letter, and the advice for its failure kind.
#[derive(Debug, Serialize)]
pub struct DeadLetter {
    #[serde(flatten)]
    pub letter: DeadLetterRecord,
    pub advice: Option<&'static str>,
}

impl From<DeadLetterRecord> for DeadLetter {
    fn from(letter: DeadLetterRecord) -> Self {
        let advice = FailureKind::from_word(&letter.failure.kind).map(FailureKind::advice);
        Self { letter, advice }
    }
}

/// Dead letters without their payloads, oldest first: of one projection, or of all projections in all stores.
pub async fn list(config: &Config, filter: &DeadLetterFilter) -> Result<Vec<DeadLetter>, OperationError> {
    let mut letters = Vec::new();
    for store in used_stores(config).await? {
        let found = store.dead_letters(filter).await;
        store.close().await;
        letters.extend(found?.into_iter().map(DeadLetter::from));
    }
    letters.sort_by_key(|dead: &DeadLetter| dead.letter.attempt.died_at);
    letters.truncate(usize::try_from(filter.most).unwrap_or(usize::MAX));
    Ok(letters)
}

/// A request for some dead letters of one projection.
#[derive(Debug, Clone)]
pub struct Request {
    pub action: DeadLetterAction,
    /// Selects the dead letters. Names the projection.
    pub filter: DeadLetterFilter,
    /// Write nothing. The results name the changes that would be made.
    pub dry_run: bool,
    pub asked: Requester,
    /// How long to wait for the first result, and between two results.
    pub timeout: Duration,
}

#[derive(Debug, Serialize)]
pub struct Done {
    pub dead_letter: i64,
    /// The number of the stored operation.
    pub operation: Option<i64>,
    pub verdict: OperationResult,
}

/// Requests an action for dead letters, and waits for the results. The requests for all dead letters are stored in
/// one transaction. `progress` gets the number of results, and the number of requests.
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
                [] => "no dead letter matches".into(),
                missing => {
                    format!("these dead letters do not exist: {}; nothing was done", missing.join(", "))
                }
            },
            help: "`projector dlq list` lists all dead letters".into(),
        });
    }
    let new = NewOperations {
        action: request.action,
        dead_letters: letters.iter().map(|letter| letter.id).collect(),
        dry_run: request.dry_run,
        requester: request.asked.clone(),
    };
    let operations = store.request(&new).await?;
    let ids = operations.values().copied().collect();
    let mut results = await_results(store, ids, &letters, (request.timeout, progress)).await?;
    let done = |letter: &DeadLetterRecord| {
        let operation = operations.get(&letter.id).copied();
        // Without a result, another request has removed the dead letter since it was listed.
        let result = operation.and_then(|operation| results.remove(&operation));
        Done {
            dead_letter: letter.id,
            operation,
            verdict: result.unwrap_or_else(|| OperationResult::of("gone")),
        }
    };
    Ok(letters.iter().map(done).collect())
}

/// Waits until all of these operations have a result. If no result comes for `timeout`, the operations that no host
/// has started are withdrawn, so that none is carried out after the command has ended with an error.
async fn await_results(
    store: &dyn Store,
    mut open: BTreeSet<i64>,
    letters: &[DeadLetterRecord],
    (timeout, progress): (Duration, &(dyn Fn(usize, usize) + Sync)),
) -> Result<BTreeMap<i64, OperationResult>, OperationError> {
    let all = open.len();
    let mut results = BTreeMap::new();
    let mut deadline = Instant::now() + timeout;
    while !open.is_empty() {
        let overdue = Instant::now() > deadline;
        let waiting: Vec<i64> = open.iter().copied().collect();
        match store.results(&waiting).await {
            Ok(done) if !done.is_empty() => {
                open.retain(|operation| !done.contains_key(operation));
                results.extend(done);
                progress(results.len(), all);
                deadline = Instant::now() + timeout;
                continue;
            }
            Ok(_) if overdue => {
                let withdrawn = store.withdraw(&waiting).await?;
                return Err(not_started(withdrawn.len(), (results.len(), all), letters, timeout));
            }
            Err(error) if overdue => return Err(error.into()),
            // No result yet, or the database does not respond: ask again until the deadline.
            Ok(_) | Err(_) => {}
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(results)
}

fn not_started(
    withdrawn: usize,
    (done, all): (usize, usize),
    letters: &[DeadLetterRecord],
    timeout: Duration,
) -> OperationError {
    let in_progress = all - done - withdrawn;
    let what = match (done, in_progress) {
        (0, 0) => format!("no host started the request within {timeout:?}, and nothing was done"),
        _ => format!(
            "{done} of {all} dead letters are done; no host started {withdrawn} others within {timeout:?}, and the request for these is withdrawn; {in_progress} are in progress, and hosts finish them without this command (`projector operations`)"
        ),
    };
    let (first, topics) =
        (letters.first(), letters.iter().map(|letter| (&*letter.event.topic, letter.event.partition)));
    let topics: BTreeSet<(&str, i32)> = topics.collect();
    let named: Vec<String> =
        topics.iter().take(3).map(|(topic, number)| format!("{topic}/{number}")).collect();
    let name = first.map_or("", |letter| letter.projection.as_str());
    OperationError::Failed(format!(
        "{what}. Check that a running host reads {}{}, and that {name} is not paused (`projector status`)",
        named.join(", "),
        if topics.len() > named.len() { ", …" } else { "" },
    ))
}

/// Deletes everything that is stored of a key's failed, parked and waiting events. Returns the number of these
/// events.
pub async fn erase(
    config: &Config,
    name: &str,
    key: &[u8],
    requester: &Requester,
) -> Result<u64, OperationError> {
    with_store(config, name, |store, _| async move {
        let overview = store.overview().await?;
        let descriptors = overview.iter().filter(|projection| projection.name == name);
        let ids: Vec<KeyId> = descriptors
            .filter_map(|projection| Descriptor::from_json(&projection.active.descriptor).ok())
            .filter_map(|descriptor| descriptor.check().ok())
            .flat_map(|contract| contract.topics)
            .flat_map(|topic| {
                let group = &topic.ordering_group;
                [KeyId::new(group, key), KeyId::of_line(group, &topic.name, key)]
            })
            .collect();
        let mut erased = 0;
        for status in store.generations(name).await? {
            erased += store.erase(&status.generation, key, &ids, requester).await?;
        }
        Ok(erased)
    })
    .await
}

/// A dead letter with its payload.
pub async fn show(config: &Config, name: &str, id: i64) -> Result<DeadLetter, OperationError> {
    let filter = DeadLetterFilter {
        projection: Some(name.to_owned()),
        ids: vec![id],
        whole: true,
        most: 1,
        ..DeadLetterFilter::default()
    };
    let find = with_store(config, name, |store, _| async move { Ok(store.dead_letters(&filter).await?) });
    find.await?.pop().map(DeadLetter::from).ok_or_else(|| OperationError::Usage {
        message: format!("{name} has no dead letter {id}"),
        help: format!("`projector dlq list {name}` lists its dead letters"),
    })
}

/// A result as a line of text.
pub fn to_text(result: &OperationResult) -> String {
    let OperationResult { outcome, code, detail, applied, ignored, waiting, behind, .. } = result;
    let mut words = match result.is_settled() {
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
        words += &format!("; of the events behind it, {applied} applied and {ignored} ignored");
    }
    match (waiting, behind) {
        (_, Some(behind)) => {
            words += &format!("; then {behind} failed or waits, and {waiting} wait behind it")
        }
        (0, None) => {}
        (waiting, None) => words += &format!("; {waiting} wait"),
    }
    words
}
