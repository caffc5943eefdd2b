//! What readers must do when another generation is shown to them.
//!
//! Views with the same columns are replaced, and nothing is to be done: grants, comments and dependent objects
//! stay. Other columns get a new schema of views, which has none of these.

use serde::Serialize;

use super::layout::Layout;
use crate::store::deployments::Standing;
use crate::store::foreign::{Readers, named};
use crate::store::{Store, StoreError};

/// What is other for readers, and who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Views and columns that are new, gone, or of another type.
    pub changes: Vec<String>,
    /// The views stay where they are; readers of new views need rights on them. Otherwise the new generation
    /// gets a schema of views of its own.
    pub in_place: bool,
    #[serde(flatten)]
    pub readers: Readers,
}

/// What changes for readers of a generation when they are shown `next`; `None`: nothing.
pub async fn from(
    store: &dyn Store,
    now: &Standing,
    next: &Layout,
    in_place: bool,
) -> Result<Option<Move>, StoreError> {
    let changes = now.layout.changes_for_readers(next);
    let is_new = |change: &String| change.starts_with("the view");
    // A column that is added to a view is one that its readers may read.
    if changes.is_empty() || (in_place && !changes.iter().any(is_new)) {
        return Ok(None);
    }
    let readers = store.readers(now).await?;
    Ok(Some(Move { changes, in_place, readers }))
}

impl Move {
    /// For a person, a line each.
    pub fn to_lines(&self) -> Vec<String> {
        let Readers { schema, grants, dependants } = &self.readers;
        let mut lines = vec![match self.in_place {
            true => format!("readers of {schema}: {}", self.changes.join("; ")),
            false => format!(
                "readers of {schema} must change to the views of the new generation, in a schema of its own: {}",
                self.changes.join("; ")
            ),
        }];
        if !grants.is_empty() {
            lines.push(format!("  grant on the new views what roles have now: {}", named(grants)));
        }
        if !dependants.is_empty() && !self.in_place {
            lines.push(format!(
                "  change these to read the new views before the old generation is retired: {}",
                named(dependants)
            ));
        }
        lines
    }
}
