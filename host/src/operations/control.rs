//! Pausing a projection, letting it go on, and passing over events that are not to be read.

use super::{OperationError, projection, used_stores};
use crate::checkpoint::Watermarks;
use crate::config::Config;
use crate::event::Partition;
use crate::source::KafkaAdmin;
use crate::store::deployments::Role;
use crate::store::operator::{Operation, Requester, Skipped};

/// Pauses a projection on all hosts: what is in flight is settled, and nothing is begun after that.
pub async fn pause(config: &Config, name: &str, asked: &Requester) -> Result<(), OperationError> {
    set_running(config, name, false, asked).await
}

/// Lets a projection go on that was paused or stands still, and its paused partitions be looked at again.
pub async fn resume(config: &Config, name: &str, asked: &Requester) -> Result<(), OperationError> {
    set_running(config, name, true, asked).await
}

async fn set_running(
    config: &Config,
    name: &str,
    go_on: bool,
    asked: &Requester,
) -> Result<(), OperationError> {
    let (store, _) = projection(config, name).await?;
    let set = async {
        let mut control = store.control_state().await?.into_iter();
        if go_on && control.any(|control| control.generation.projection == name && control.stopped) {
            return Err(OperationError::Failed(format!(
                "{name} is stopped: `projector start {name}` runs it again"
            )));
        }
        for standing in store.standings(name).await? {
            store.set_running(&standing.generation, go_on, asked).await?;
        }
        Ok(())
    };
    let set = set.await;
    store.close().await;
    set
}

/// Moves a checkpoint forward; the events in between are counted as skipped. It never moves back.
pub async fn skip(
    config: &Config,
    name: &str,
    number: Option<i32>,
    partition: &Partition,
    to: i64,
    asked: &Requester,
) -> Result<Skipped, OperationError> {
    let log = KafkaAdmin::open(&config.kafka)?;
    let end =
        log.topic(partition.topic.clone()).await?.into_iter().flatten().find(|(found, _)| found == partition);
    match end {
        Some((_, Watermarks { high, .. })) if to > high => {
            return Err(OperationError::Failed(format!(
                "the log of {partition} ends at {high}: events that are not written yet cannot be skipped"
            )));
        }
        None => return Err(OperationError::Failed(format!("Kafka has no partition {partition}"))),
        Some(_) => {}
    }
    let (store, live) = projection(config, name).await?;
    let skipped = async {
        let standing = match number {
            None => live,
            Some(_) => {
                super::deployments::other(&*store, &live, number, &[Role::Building, Role::Warm]).await?
            }
        };
        Ok(store.skip(&standing.generation, partition, to, asked).await?)
    };
    let skipped = skipped.await;
    store.close().await;
    skipped
}

/// What operators asked for, newest first, of one projection or of all.
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
