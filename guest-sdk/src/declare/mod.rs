//! The declarations of a plugin, as constants.
//!
//! Why: the derive macros generate these constants, and the descriptor is built from them. Because they are constants,
//! many mistakes in them are compile errors at the author's line.

mod check;
mod lookup;
mod projection;
mod statement;
mod table;

pub use check::{all_keep_the_key, argument_positions};
pub use lookup::{Lookup, LookupDeclaration, Query, Reads};
pub use projection::{
    EventIdDeclaration, IdPartDeclaration, Projection, ProjectionDeclaration, TopicDeclaration,
};
pub use statement::{Statement, StatementDeclaration, Writes};
pub use table::{ColumnDeclaration, IndexDeclaration, Table, TableDeclaration};
