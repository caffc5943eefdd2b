//! What changes for readers when another generation, or another version, is shown to them.
//!
//! Views whose columns are all there go on, and show the other generation: grants, comments and dependent objects
//! stay. What is new is shown by new views, which have the rights of the views before. Views of which a column is gone
//! stay with the generation before, so their readers must change before it is retired.

use projector_core::generation::GenerationStatus;
use projector_core::layout::Layout;
use projector_core::refusal::first_of;
use projector_core::views::ViewSet;
use projector_store::foreign::Readers;
use projector_store::{Store, StoreError};
use serde::Serialize;

/// What is other for readers, and who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Views and columns that are new, gone, or of another type.
    pub changes: Vec<String>,
    /// Readers must change to other views, before the old generation is retired. Otherwise the views that they know go
    /// on with the columns that they have.
    pub must_move: bool,
    /// New views stand beside those that readers know; their readers need rights on them. Otherwise they stand in a
    /// schema of their own, and have the rights that the views before have.
    pub in_place: bool,
    /// Of the views that readers know.
    #[serde(flatten)]
    pub readers: Readers,
}

/// What changes for readers of a generation when they are shown `next`; `None`: nothing.
pub async fn from(
    store: &dyn Store,
    now: &GenerationStatus,
    next: &Layout,
) -> Result<Option<Move>, StoreError> {
    let Some(newest) = now.newest_views() else { return Ok(None) };
    let left: Vec<ViewSet> = now.views.iter().filter(|set| !set.fits(next)).cloned().collect();
    let changes = newest.changes(next);
    if changes.is_empty() && left.is_empty() {
        return Ok(None);
    }
    let must_move = !left.is_empty();
    let in_place = newest.fits(next) && newest.has_all_columns(next);
    let known = if must_move { left } else { vec![newest.clone()] };
    let readers = store.readers(&known).await?;
    Ok(Some(Move { changes, must_move, in_place, readers }))
}

impl Move {
    /// For a person, a line each.
    pub fn to_lines(&self) -> Vec<String> {
        let Readers { schema, grants, dependants } = &self.readers;
        let changes = self.changes.join("; ");
        let mut lines = vec![match (self.must_move, self.in_place) {
            (true, _) => format!(
                "readers of {schema} must change to other views, because these stay with the old generation: {changes}"
            ),
            (false, true) => format!("readers of {schema}: {changes}"),
            (false, false) => format!(
                "readers of {schema} need do nothing: their views keep the columns that they have. What is new is in new views, in a schema of their own: {changes}"
            ),
        }];
        match self.in_place {
            _ if grants.is_empty() => {}
            true => lines.push(format!("  grant on the new views what roles have now: {}", first_of(grants))),
            false => lines.push(format!("  the new views have the same rights: {}", first_of(grants))),
        }
        if !dependants.is_empty() && self.must_move {
            lines.push(format!(
                "  change these to read the new views before the old generation is retired: {}",
                first_of(dependants)
            ));
        }
        lines
    }
}
