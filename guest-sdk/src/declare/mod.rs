//! What a plugin declares, as constants: the derive macros write them, the descriptor is made of
//! them, and mistakes in them are found while the plugin compiles.

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
