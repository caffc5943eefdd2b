//! Removes old data of projections that `[keep]` does not keep: warm generations, history, components.
//!
//! Every host does this for each of its stores, at intervals. What one host has removed is gone for the others, so no
//! lock is needed between hosts. All removals are logged. `projector history` and `projector operations` also show the
//! removal of a generation.

use std::num::NonZeroU32;
use std::time::Duration;

use projector_config::{self as config, Config};
use projector_core::deployment::Origin;
use projector_core::failure::FailureKind;
use projector_store::retention::{Pruned, Warm};
use projector_store::{Requester, Store, StoreError};
use tokio_util::sync::CancellationToken;

use crate::retry::{Backoff, Retries};

/// The pause between two runs over the projections of a store.
const INTERVAL: Duration = Duration::from_secs(20);

/// Removes old data of a store, until the host stops.
pub(super) async fn remove_old_data(
    config: &Config,
    settings: &config::Store,
    store: &dyn Store,
    retries: &Retries,
    stop: &CancellationToken,
) {
    let mut backoff = Backoff::of_store(&settings.shown(), retries);
    while !stop.is_cancelled() {
        let removed = tokio::select! {
            removed = remove_once(config, settings, store, retries) => removed,
            () = stop.cancelled() => return,
        };
        match removed {
            Ok(()) => {
                backoff.succeeded();
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(error) => {
                backoff.failed(error.kind(), &format!("old data could not be removed: {error}"));
                backoff.wait(stop).await;
            }
        }
    }
}

/// One run over all projections of the store.
async fn remove_once(
    config: &Config,
    settings: &config::Store,
    store: &dyn Store,
    retries: &Retries,
) -> Result<(), StoreError> {
    for projection in store.projection_names().await? {
        // The configuration puts the projection into another store now: its data here is left alone.
        if *config.store_of(&projection).url != *settings.url {
            continue;
        }
        let keep = config.keep_of(&projection);
        let warm = store.warm_generations(&projection).await?;
        for Warm { generation, .. } in surplus(&warm, keep.warm_generations) {
            let reason = format!("warm-generations = {}", keep.warm_generations);
            match store.retire(generation, Origin::Host, &Requester::host(Some(reason))).await {
                Ok(()) => tracing::info!(
                    projection,
                    generation = generation.number,
                    kept = keep.warm_generations,
                    "old generation retired: the configuration keeps fewer warm generations"
                ),
                // The database works, but this generation cannot be retired now: another host has just retired it,
                // objects that Projector did not create depend on it, its stored data cannot be read, or another
                // session holds locks on its tables. Go on with the others, and try again in the next run.
                Err(error) if error.kind() == FailureKind::Store || is_contention(&error) => {
                    retries.warn(&projection, "an old generation was not retired", &error);
                }
                Err(error) => return Err(error),
            }
        }
        let mut removed = Pruned::default();
        loop {
            let pruned = store.prune(&projection, keep).await?;
            removed.operations += pruned.operations;
            removed.deployments += pruned.deployments;
            removed.components += pruned.components;
            if !pruned.is_full() {
                break;
            }
        }
        if !removed.is_empty() {
            let Pruned { operations, deployments, components } = removed;
            tracing::info!(
                projection,
                operations,
                deployments,
                components,
                "old rows of operations and deployments, and old components, removed"
            );
        }
    }
    Ok(())
}

fn is_contention(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(outage) if outage.is_contention())
}

/// The warm generations to retire, the oldest first. `warm` begins with the generation that was live last. A generation
/// with views of its own stays: only an operator knows when these views have no readers any more.
fn surplus(warm: &[Warm], kept: NonZeroU32) -> impl Iterator<Item = &Warm> {
    let kept = usize::try_from(kept.get()).unwrap_or(usize::MAX);
    warm.get(kept..).unwrap_or_default().iter().rev().filter(|warm| !warm.has_views)
}

#[cfg(test)]
mod tests {
    use super::*;
    use projector_core::generation::Generation;

    #[test]
    fn the_last_live_generations_stay_and_those_with_views() {
        let warm = |number, has_views| Warm {
            generation: Generation {
                id: i64::from(number),
                projection: "orders".into(),
                number,
                schema: format!("orders_g{number}"),
            },
            has_views,
        };
        let all = [warm(3, true), warm(5, false), warm(4, false), warm(2, true), warm(1, false)];
        let goes = |kept| -> Vec<i32> {
            let kept = NonZeroU32::new(kept).expect("not zero");
            surplus(&all, kept).map(|warm| warm.generation.number).collect()
        };
        assert_eq!((goes(1), goes(2), goes(9)), (vec![1, 4, 5], vec![1, 4], vec![]));
    }
}
