//! How the write barrier of a generation is stored.

use std::time::Duration;

use projector_core::checkpoint::Offsets;
use projector_core::event::Partition;
use uuid::Uuid;

use super::Session;
use crate::error::StoreError;
use crate::write_barrier::WriteBarrier;

/// The columns of a generation that its write barrier consists of.
pub(crate) struct BarrierRow {
    /// False as well after the time for which the barrier was raised.
    is_raised: bool,
    /// Offsets in JSON. `None`: no batch may be written.
    up_to: Option<String>,
}

from_row! { BarrierRow { is_raised, up_to } }

impl BarrierRow {
    pub(crate) fn barrier(&self) -> Result<WriteBarrier, StoreError> {
        Ok(match (self.is_raised, &self.up_to) {
            (false, _) => WriteBarrier::Open,
            (true, Some(json)) => WriteBarrier::UpTo(offsets_from_json(json)?),
            (true, None) => WriteBarrier::Closed,
        })
    }
}

fn offsets_json(offsets: &Offsets) -> String {
    let list: Vec<(&str, i32, i64)> =
        offsets.iter().map(|(partition, next)| (&*partition.topic, partition.number, *next)).collect();
    serde_json::to_string(&list).expect("texts and numbers")
}

fn offsets_from_json(json: &str) -> Result<Offsets, StoreError> {
    let list: Vec<(String, i32, i64)> = serde_json::from_str(json)
        .map_err(|error| StoreError::Unusable(format!("the stored offsets of a write barrier: {error}")))?;
    Ok(list.into_iter().map(|(topic, number, next)| (Partition::new(topic.as_str(), number), next)).collect())
}

/// Raises the barrier of generations from now on, for `time`. `false`: another owner has raised a barrier in one of them.
pub(super) async fn raise<S: Session>(
    session: &mut S,
    generations: &[i64],
    owner: Uuid,
    (up_to, time): (Option<&Offsets>, Duration),
) -> Result<bool, StoreError> {
    let sql = format!(
        "update projector.generation set hold_until = {}, hold_at = {}, hold_by = $2
         where {} and (hold_by = $2 or hold_until is null or hold_until <= now())",
        S::micros_from_now("$3"),
        S::document("$4"),
        S::is_one_of("id", "$1")
    );
    let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    let arguments =
        [generations.into(), owner.into(), micros.into(), up_to.map(offsets_json).as_deref().into()];
    Ok(session.execute(&sql, &arguments).await? == generations.len() as u64)
}

/// Opens the barrier of generations again, if this owner raised it.
pub(super) async fn release<S: Session>(
    session: &mut S,
    generations: &[i64],
    owner: Uuid,
) -> Result<(), StoreError> {
    let sql = format!(
        "update projector.generation set hold_until = null, hold_at = null, hold_by = null
         where {} and hold_by = $2",
        S::is_one_of("id", "$1")
    );
    session.execute(&sql, &[generations.into(), owner.into()]).await.map(drop)
}
