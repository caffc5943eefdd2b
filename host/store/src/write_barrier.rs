//! The write barrier of a generation.

use projector_core::checkpoint::Offsets;

/// Up to where the batches of a generation may write. A comparison and a promotion raise the barrier for a second at
/// most, to see two generations at the same offsets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WriteBarrier {
    /// There is no barrier.
    #[default]
    Open,
    /// No batch may go beyond these offsets.
    UpTo(Offsets),
    /// No batch may be written.
    Closed,
}

impl WriteBarrier {
    pub fn is_open(&self) -> bool {
        *self == WriteBarrier::Open
    }
}
