//! Checkpoints: begun once, compared before they are set, and moved with everything else or not at
//! all.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::task::Poll;

use anyhow::Result;
use projector_core::checkpoint::{Beginning, Checkpoint, Identity};
use projector_core::counters::{Counters, OutcomeCounts};
use projector_core::event::{Event, Partition, Position};
use projector_core::event_failure::Failure;
use projector_core::failure::{Blocker, FailureKind};
use projector_model::Change;
use projector_store::{Advance, DeadLetter, PartitionState, StatementCount, StoreError, Writes};

use super::home::{Home, wait_until};
use super::projection::{ADD, PUT, Projection, advance, contract, numbers, numeric, partition};
use super::{on_both_stores, rows};

on_both_stores!(
    a_partition_is_begun_once,
    checkpoints_come_in_the_order_asked,
    a_moved_checkpoint_is_named_and_nothing_is_written,
    a_commit_that_is_given_up_at_any_wait_leaves_all_of_it_or_nothing,
    rows_checkpoints_dead_letters_and_counters_move_together,
    what_is_shown_is_of_one_moment,
    what_stands_still_says_why_until_it_moves,
);

fn other() -> Partition {
    Partition::new("u", 7)
}

fn counts(codes: &[(&str, i64)]) -> BTreeMap<String, i64> {
    codes.iter().map(|(code, events)| ((*code).to_owned(), *events)).collect()
}

/// A batch of two partitions: two events applied, one ignored, one dead.
struct Batch {
    changes: Vec<Change>,
    event: Event,
    failure: Failure,
}

impl Batch {
    fn new(offset: i64) -> Self {
        Self {
            changes: vec![numeric(PUT, &[1, 5]), numeric(ADD, &[2, offset])],
            event: Event {
                position: Position { partition: other(), offset },
                topic: 0,
                timestamp_ms: None,
                key: None,
                value: None,
                also: Vec::new(),
                topic_name: "t".into(),
                oversize_bytes: None,
                headers: Vec::new(),
            },
            failure: Failure::new(FailureKind::Rejected, "no-country", "it has none"),
        }
    }

    fn writes(&self, advances: [Advance; 2]) -> Writes<'_> {
        Writes {
            advances: advances.into(),
            positions: vec![&self.event.position; 4],
            changes: vec![(0, &self.changes[..1]), (1, &self.changes[1..])],
            dead: vec![DeadLetter {
                event: &self.event,
                failure: &self.failure,
                blocks: None,
                moved_by: None,
            }],
            ..Writes::default()
        }
    }
}

fn of_other(expected: i64) -> Advance {
    Advance {
        partition: other(),
        expected,
        next: expected + 10,
        counts: OutcomeCounts {
            applied: 1,
            ignored: counts(&[("old", 1)]),
            dead: counts(&[("no-country", 1)]),
            ..OutcomeCounts::default()
        },
    }
}

async fn a_partition_is_begun_once(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let generation = &projection.deployment.generation;
    let identity = Identity { topic_id: Some("T".into()), cluster_id: None };
    let changed = Identity { topic_id: Some("other".into()), cluster_id: Some("C".into()) };
    projection
        .store
        .begin_partition(generation, &other(), &Beginning { identity: identity.clone(), ..Beginning::at(42) })
        .await?;
    projection
        .store
        .begin_partition(generation, &other(), &Beginning { identity: changed, ..Beginning::at(7) })
        .await?;
    let found = projection.store.checkpoints(generation, &[other()]).await?;
    assert_eq!(found, [Some(Checkpoint { next_offset: 42, identity })]);
    Ok(())
}

async fn checkpoints_come_in_the_order_asked(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let generation = &projection.deployment.generation;
    projection.store.begin_partition(generation, &other(), &Beginning::at(42)).await?;
    let asked = [other(), Partition::new("unknown", 0), partition(), other()];
    let found = projection.store.checkpoints(generation, &asked).await?;
    let offsets: Vec<_> = found.iter().map(|found| found.as_ref().map(|found| found.next_offset)).collect();
    assert_eq!(offsets, [Some(42), None, Some(0), Some(42)]);
    Ok(())
}

async fn a_moved_checkpoint_is_named_and_nothing_is_written(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let generation = projection.deployment.generation.clone();
    projection.store.begin_partition(&generation, &other(), &Beginning::at(42)).await?;
    let untouched = serde_json::to_value(projection.overview().await?)?;
    let unknown = Advance { partition: Partition::new("unknown", 1), ..advance(0, 2) };
    let batch = Batch::new(42);
    for (advances, moved) in [
        ([advance(0, 2), of_other(41)], vec![other()]),
        ([advance(1, 2), of_other(42)], vec![partition()]),
        ([advance(1, 2), of_other(43)], vec![partition(), other()]),
        ([unknown, of_other(42)], vec![Partition::new("unknown", 1)]),
    ] {
        match projection.commit(&batch.writes(advances)).await {
            Err(StoreError::CheckpointMoved(named)) => assert_eq!(named, moved),
            result => panic!("{result:?}"),
        }
        assert_eq!(serde_json::to_value(projection.overview().await?)?, untouched);
        let rows = rows::of_store(&home, &projection.deployment.contract, &generation).await?;
        assert!(rows[0].stored.is_empty(), "{rows:?}");
    }
    Ok(())
}

async fn a_commit_that_is_given_up_at_any_wait_leaves_all_of_it_or_nothing(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let generation = projection.deployment.generation.clone();
    projection.store.begin_partition(&generation, &other(), &Beginning::at(0)).await?;
    let session = tokio::sync::Mutex::new(home.session().await?);
    let (mut commits, mut patience) = (0, 0);
    while commits < 3 {
        let batch = Batch::new(10 * commits);
        let advances = [advance(2 * commits, 2), of_other(10 * commits)];
        let commit = async { projection.commit(&batch.writes(advances)).await };
        let finished = give_up_after(patience, commit).await;
        patience += 1;
        // The server may still be at it.
        let decided = async || Ok(session.lock().await.undecided().await? == 0);
        wait_until("the transaction that was given up has ended", decided).await?;

        let state = projection.partition_state(&other()).await?;
        if let Some(result) = finished {
            result?;
            assert_eq!(state.checkpoint, 10 * (commits + 1));
        }
        // Given up while it waits for the answer, it may be committed all the same.
        commits = state.checkpoint / 10;
        assert_eq!((state.counters.read, state.counters.dead), (3 * commits, commits));
        assert_eq!(projection.offset().await?, 2 * commits);
        let overview = projection.overview().await?;
        assert_eq!(overview.missing.dead_letters, commits);
        assert_eq!(overview.statements.get("add").map_or(0, |count| count.changes), commits);
        let rows = rows::of_store(&home, &projection.deployment.contract, &generation).await?;
        let sum = rows[0].stored.get(1).and_then(|row| row.values[1].clone());
        assert_eq!(sum, (commits > 0).then(|| (0..commits).map(|at| 10 * at).sum::<i64>().to_string()));
    }
    assert!(patience > 3, "it was given up before it was let through");
    Ok(())
}

/// Lets a future run until it has waited this often, and drops it.
async fn give_up_after<T>(waits: i64, future: impl Future<Output = T>) -> Option<T> {
    let mut future = Box::pin(future);
    let mut waited = 0;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if waited == waits => Poll::Ready(None),
        Poll::Pending => {
            waited += 1;
            Poll::Pending
        }
    })
    .await
}

async fn rows_checkpoints_dead_letters_and_counters_move_together(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let generation = projection.deployment.generation.clone();
    projection.store.begin_partition(&generation, &other(), &Beginning::at(0)).await?;
    for round in [0, 10] {
        let batch = Batch::new(round);
        projection.commit(&batch.writes([advance(round / 5, 2), of_other(round)])).await?;
    }
    let state = projection.partition_state(&other()).await?;
    assert_eq!(state.checkpoint, 20);
    assert_eq!(state.counters, Counters { read: 6, applied: 2, ignored: 2, dead: 2, ..Counters::default() });
    assert_eq!(state.ignored_by_code, counts(&[("old", 2)]));
    assert_eq!(state.dead_by_code, counts(&[("no-country", 2)]));
    let state = projection.partition_state(&partition()).await?;
    assert_eq!((state.checkpoint, state.counters.read, state.counters.applied), (4, 4, 4));

    let overview = projection.overview().await?;
    assert_eq!(overview.missing.dead_letters, 2);
    let twice = StatementCount { changes: 2, rows: 2 };
    assert_eq!(overview.statements, BTreeMap::from([("put".into(), twice), ("add".into(), twice)]));
    for state in overview.partitions {
        let Counters { read, applied, ignored, parked, waiting, dead, skipped } = state.counters;
        assert_eq!(read, applied + ignored + parked + waiting + dead + skipped);
    }
    let rows = rows::of_store(&home, &projection.deployment.contract, &generation).await?;
    let values: Vec<_> = rows[0].visible.iter().map(|row| row.values[1].as_deref()).collect();
    assert_eq!(values, [Some("5"), Some("10")]);
    Ok(())
}

/// Somebody looks all the while that batches are committed, and sees each of them wholly or not.
async fn what_is_shown_is_of_one_moment(home: Home) -> Result<()> {
    const BATCHES: i64 = 300;
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let generation = projection.deployment.generation.clone();
    projection.store.begin_partition(&generation, &other(), &Beginning::at(0)).await?;
    let write = async {
        for at in 0..BATCHES {
            let batch = Batch::new(10 * at);
            projection.commit(&batch.writes([advance(2 * at, 2), of_other(10 * at)])).await?;
        }
        anyhow::Ok(())
    };
    let look = async {
        let mut seen = 0;
        loop {
            let shown = projection.overview().await?;
            let find = |partition: &Partition| {
                let of = |state: &&PartitionState| state.topic == *partition.topic;
                shown.partitions.iter().find(of).expect("both are shown")
            };
            let (here, there) = (find(&partition()), find(&other()));
            let changes = shown.statements.get("add").map_or(0, |count| count.changes);
            let of_each = [
                shown.missing.dead_letters,
                here.checkpoint / 2,
                there.checkpoint / 10,
                there.counters.dead,
                there.dead_by_code.values().sum(),
                changes,
            ];
            assert_eq!(of_each, [of_each[0]; 6]);
            seen += i64::from((1..BATCHES).contains(&of_each[0]));
            if of_each[0] == BATCHES {
                assert!(seen > 0, "nobody looked in between");
                return anyhow::Ok(());
            }
        }
    };
    tokio::try_join!(write, look)?;
    Ok(())
}

async fn what_stands_still_says_why_until_it_moves(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let generation = projection.deployment.generation.clone();
    let lost = Blocker::new(FailureKind::Log, "lost");
    projection.store.set_paused(&generation, &partition(), Some(&lost)).await?;
    assert_eq!(projection.partition_state(&partition()).await?.paused, Some(lost.clone()));
    projection.store.set_paused(&generation, &partition(), None).await?;
    assert_eq!(projection.partition_state(&partition()).await?.paused, None);
    projection.store.set_paused(&generation, &partition(), Some(&lost)).await?;
    projection.write(&[vec![numeric(PUT, &[1, 2])]]).await?;
    assert_eq!(
        projection.partition_state(&partition()).await?.paused,
        None,
        "a commit shows that it is read"
    );

    let flood = Blocker::new(FailureKind::Flood, "a flood");
    projection.store.set_blocked(&generation, Some(&flood)).await?;
    assert_eq!(projection.overview().await?.blocker, Some(flood));
    projection.store.set_blocked(&generation, None).await?;
    assert_eq!(projection.overview().await?.blocker, None);
    Ok(())
}
