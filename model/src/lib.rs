//! What a projection declares, and what its changes mean. The host and the guest SDK share this crate.
//!
//! A plugin *declares* its tables, statements and lookups in a [`Descriptor`]. The host *checks* the descriptor, which
//! makes it a [`Contract`]. At run time the plugin answers each event with [`Change`]s, and [`Tables`] defines what every
//! change does to the rows.
//!
//! [`Tables`] is the reference: tests compare the host's planner, its two stores and the SDK's test harness with it.
//!
//! Reading order: [`value`]; [`descriptor`], its check and the [`contract`]; [`names`] that the host derives; [`change`]
//! and the interpreter ([`interpret`]); [`order`], which finds what depends on the order between topics.
//!
//! Invariant: this crate is pure. It has no I/O, no clock and no threads.

pub mod change;
mod check;
pub mod contract;
pub mod decimal;
pub mod descriptor;
mod event_id;
mod fit;
pub mod interpret;
pub mod json;
pub mod names;
pub mod order;
mod problem;
pub mod raw;
pub mod repeat;
mod reserved;
pub mod value;

pub use change::{Change, LookupCall, Rejection};
pub use contract::{Contract, Lookup, Table, Write, WriteKind};
pub use decimal::Decimal;
pub use descriptor::Descriptor;
pub use interpret::Tables;
pub use problem::{Problem, Problems, nearest};
pub use value::{Type, Value};
