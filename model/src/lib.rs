//! What a projection says and what it means, shared by the host and the guest SDK.
//!
//! A plugin *declares* its tables, statements and lookups in a [`Descriptor`]; the host *checks*
//! it into a [`Contract`]; at run time the plugin answers events with [`Change`]s, and
//! [`Tables`] says, change by change, what they do to the rows. That interpreter is the reference:
//! the host's planner, both of its stores and the SDK's test harness are held against it.
//!
//! In reading order: values, the descriptor, its check, the names that follow from it, the interpreter, the order between topics.

pub mod change;
pub mod check;
pub mod contract;
pub mod decimal;
pub mod descriptor;
mod event_id;
pub mod interpret;
pub mod json;
pub mod names;
pub mod order;
pub mod raw;
pub mod repeat;
mod reserved;
pub mod value;

pub use change::{Change, LookupCall, Rejection};
pub use check::{Problem, Problems};
pub use contract::{Contract, Lookup, Table, Write, WriteKind};
pub use decimal::Decimal;
pub use descriptor::Descriptor;
pub use interpret::Tables;
pub use value::{Type, Value};
