//! Dead letters: what failed, and having it tried again or dropped.

use std::time::Duration;

use projector_model::Descriptor;
use serde::Serialize;
use tokio::time::Instant;

use super::{OperationError, projection};
use crate::config::Config;
use crate::failure::FailureKind;
use crate::ordering::KeyId;
use crate::store::operator::{Action, Asked, Filter, Letter, NewOperation, Verdict};
use crate::store::{self, Store};

/// How often a verdict is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// A dead letter, and what to do about it.
#[derive(Debug, Serialize)]
pub struct DeadLetter {
    #[serde(flatten)]
    pub letter: Letter,
    pub advice: Option<&'static str>,
}

impl From<Letter> for DeadLetter {
    fn from(letter: Letter) -> Self {
        let advice = FailureKind::from_word(&letter.kind).map(FailureKind::advice);
        Self { letter, advice }
    }
}

/// Dead letters without their payloads, oldest first: of one projection, or of all in all stores.
pub async fn list(config: &Config, filter: &Filter) -> Result<Vec<DeadLetter>, OperationError> {
    let mut letters = Vec::new();
    for settings in config.all_stores() {
        let store = store::open_to_read(settings).await?;
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
    pub action: Action,
    /// Of the projection that it names.
    pub filter: Filter,
    /// Nothing is written; the verdict names the changes.
    pub dry_run: bool,
    pub asked: Asked,
    /// How long a host may take to begin.
    pub timeout: Duration,
}

#[derive(Debug, Serialize)]
pub struct Done {
    pub dead_letter: i64,
    /// Its number among those that are kept.
    pub operation: Option<i64>,
    pub verdict: Verdict,
}

/// Has dead letters dealt with, one after the other, by the lanes that are granted their partitions.
/// Returns what came of each; `progress` is told before that.
pub async fn request(
    config: &Config,
    name: &str,
    request: &Request,
    progress: &(dyn Fn(&Letter) + Sync),
) -> Result<Vec<Done>, OperationError> {
    let (store, _) = projection(config, name).await?;
    let done = request_in(&*store, request, progress).await;
    store.close().await;
    done
}

async fn request_in(
    store: &dyn Store,
    request: &Request,
    progress: &(dyn Fn(&Letter) + Sync),
) -> Result<Vec<Done>, OperationError> {
    let letters = store.dead_letters(&request.filter).await?;
    if letters.is_empty() {
        return Err(OperationError::Usage {
            message: "there are no such dead letters".into(),
            help: "`projector dlq list` lists all dead letters".into(),
        });
    }
    let mut all = Vec::new();
    for letter in letters {
        progress(&letter);
        let asked = NewOperation {
            action: request.action,
            dead_letter: letter.id,
            dry_run: request.dry_run,
            asked: request.asked.clone(),
        };
        let (operation, verdict) = match store.ask(&asked).await? {
            // Somebody else dealt with it meanwhile.
            None => (None, Verdict::of("gone")),
            Some(operation) => {
                (Some(operation), await_verdict(store, operation, &letter, request.timeout).await?)
            }
        };
        all.push(Done { dead_letter: letter.id, operation, verdict });
    }
    Ok(all)
}

async fn await_verdict(
    store: &dyn Store,
    operation: i64,
    letter: &Letter,
    timeout: Duration,
) -> Result<Verdict, OperationError> {
    let deadline = Instant::now() + timeout;
    loop {
        let overdue = Instant::now() > deadline;
        match store.verdict(operation).await {
            Ok(Some(verdict)) => return Ok(verdict),
            Ok(None) if overdue && store.withdraw(operation).await? => {
                return Err(OperationError::Failed(format!(
                    "no host began within {timeout:?}, and nothing was done. Is there a running host that reads {}/{}, and is {} not paused? `projector status` shows it",
                    letter.topic, letter.partition, letter.projection
                )));
            }
            // It is under way, or will be.
            Ok(None) => {}
            Err(error) if overdue => return Err(error.into()),
            Err(_) => {}
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Forgets everything that is kept of a key. Returns how many events those were.
pub async fn erase(config: &Config, name: &str, key: &[u8], asked: &Asked) -> Result<u64, OperationError> {
    let (store, _) = projection(config, name).await?;
    let erased = async {
        let overview = store.overview().await?;
        let descriptors = overview.iter().filter(|projection| projection.name == name);
        let ids: Vec<KeyId> = descriptors
            .filter_map(|projection| Descriptor::from_json(&projection.descriptor).ok())
            .filter_map(|descriptor| descriptor.check().ok())
            .flat_map(|contract| contract.topics)
            .map(|topic| KeyId::new(&topic.ordering_group, key))
            .collect();
        let mut erased = 0;
        for standing in store.standings(name).await? {
            erased += store.erase(&standing.generation, key, &ids, asked).await?;
        }
        Ok(erased)
    };
    let erased = erased.await;
    store.close().await;
    erased
}

/// The whole of a dead letter.
pub async fn show(config: &Config, name: &str, id: i64) -> Result<DeadLetter, OperationError> {
    let (store, _) = projection(config, name).await?;
    let filter =
        Filter { projection: Some(name.to_owned()), id: Some(id), whole: true, most: 1, ..Filter::default() };
    let found = store.dead_letters(&filter).await;
    store.close().await;
    found?.pop().map(DeadLetter::from).ok_or_else(|| OperationError::Usage {
        message: format!("{name} has no dead letter {id}"),
        help: format!("`projector dlq list {name}` shows those that it has"),
    })
}

/// What a verdict says, in a line.
pub fn in_words(verdict: &Verdict) -> String {
    let Verdict { outcome, code, detail, applied, ignored, waiting, behind, .. } = verdict;
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
