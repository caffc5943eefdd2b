//! Whether a batch may begin.

use super::write_barrier::BarrierRow;
use crate::error::StoreError;
use crate::write_barrier::WriteBarrier;

/// The state of a generation when a batch begins.
pub(crate) struct Admission {
    barrier: BarrierRow,
    active_digest: String,
    paused: Option<String>,
    any_blocked: bool,
}

from_row! { Admission { ..barrier, active_digest, paused, any_blocked } }

impl Admission {
    /// Checks whether a batch of this component may begin. `found`: `None` if the generation was removed. Returns whether any key is blocked, and how far the batch may go.
    /// A read-only transaction may be of a component that is not the active one.
    pub(crate) fn of(
        found: Option<Self>,
        digest: &str,
        is_read_only: bool,
    ) -> Result<(bool, WriteBarrier), StoreError> {
        let gone = || StoreError::Inactive("none, as the generation is gone".into());
        let Admission { barrier, active_digest, paused, any_blocked } = found.ok_or_else(gone)?;
        if active_digest != *digest && !is_read_only {
            return Err(StoreError::Inactive(active_digest));
        }
        if let Some(reason) = paused {
            return Err(StoreError::Paused(reason));
        }
        match barrier.barrier()? {
            WriteBarrier::Closed => Err(StoreError::WriteBarrier(WriteBarrier::Closed)),
            barrier => Ok((any_blocked, barrier)),
        }
    }
}
