//! Pausing and resuming a projection, and skipping events.

use projector_config::Config;
use projector_core::checkpoint::Watermarks;
use projector_core::event::Partition;
use projector_core::generation::Role;
use projector_kafka::KafkaAdmin;
use projector_store::Requester;
use projector_store::control::Skipped;
use projector_store::operations::Operation;

use super::{OperationError, generations, used_stores, with_store};

/// Pauses a projection on all hosts. Batches in flight are finished before this returns, and no new batch begins.
pub async fn pause(config: &Config, name: &str, requester: &Requester) -> Result<(), OperationError> {
    set_running(config, name, false, requester).await
}

/// Resumes a projection that is paused or blocked. Its paused partitions are tried again.
pub async fn resume(config: &Config, name: &str, requester: &Requester) -> Result<(), OperationError> {
    set_running(config, name, true, requester).await
}

async fn set_running(
    config: &Config,
    name: &str,
    running: bool,
    requester: &Requester,
) -> Result<(), OperationError> {
    with_store(config, name, |store, _| async move {
        let mut control = store.control_state().await?.into_iter();
        if running && control.any(|control| control.generation.projection == name && control.stopped) {
            return Err(OperationError::Failed(format!(
                "{name} is stopped: `projector start {name}` runs it again"
            )));
        }
        for status in store.generations(name).await? {
            store.set_running(&status.generation, running, requester).await?;
        }
        Ok(())
    })
    .await
}

/// What to skip: the events of a partition before an offset.
pub struct Skip {
    /// The generation's number. `None`: the live one.
    pub generation: Option<i32>,
    pub partition: Partition,
    /// The next offset to read.
    pub to: i64,
}

/// Moves a checkpoint forward, and counts the events in between as skipped. A checkpoint never moves back.
pub async fn skip(
    config: &Config,
    name: &str,
    Skip { generation, partition, to }: &Skip,
    requester: &Requester,
) -> Result<Skipped, OperationError> {
    let log = KafkaAdmin::open(&config.kafka)?;
    let end =
        log.topic(partition.topic.clone()).await?.into_iter().flatten().find(|(found, _)| found == partition);
    match end {
        Some((_, Watermarks { high, .. })) if *to > high => {
            return Err(OperationError::Failed(format!(
                "{partition} ends at offset {high}: events that are not written yet cannot be skipped"
            )));
        }
        None => return Err(OperationError::Failed(format!("Kafka has no partition {partition}"))),
        Some(_) => {}
    }
    with_store(config, name, |store, live| async move {
        let status = match generation {
            None => live,
            number => generations::other(&*store, &live, *number, &[Role::Building, Role::Warm]).await?,
        };
        Ok(store.skip(&status.generation, partition, *to, requester).await?)
    })
    .await
}

/// The requests of operators, newest first: for one projection, or for all.
pub async fn operations(
    config: &Config,
    name: Option<&str>,
    most: usize,
) -> Result<Vec<Operation>, OperationError> {
    let mut all = Vec::new();
    for store in used_stores(config).await? {
        let found = store.operations(name, most as i64).await;
        store.close().await;
        all.extend(found?);
    }
    all.sort_by_key(|operation| std::cmp::Reverse(operation.asked_at));
    all.truncate(most);
    Ok(all)
}
