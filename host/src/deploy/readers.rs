//! What changes for readers of the views when another generation, or another version, is shown to them.
//!
//! If the new layout has all columns of a view, the view is switched to the other generation: its grants, comments
//! and dependent objects stay. New tables and columns are shown by new views, which get the grants of the views
//! before. If a column of a view is gone, the view keeps showing the generation before. Its readers must change to
//! the new views before that generation is retired.

use projector_core::generation::GenerationStatus;
use projector_core::layout::Layout;
use projector_core::refusal::first_of;
use projector_core::views::ViewSet;
use projector_store::readers::Readers;
use projector_store::{Store, StoreError};
use serde::Serialize;

/// What changes for readers, and who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Views and columns that are new, gone, or of another type.
    pub changes: Vec<String>,
    /// Whether readers must change to other views before the old generation is retired. If false, their views
    /// continue, with the columns that they have.
    pub must_move: bool,
    /// Whether new views are created in the schema that readers use. Then readers need a grant on them. If false, the
    /// new views are in a schema of their own, and have the grants of the views before.
    pub in_place: bool,
    /// The grants and dependent objects of the views that readers use now.
    #[serde(flatten)]
    pub readers: Readers,
}

/// What changes for readers of the generation `now` when they see the layout `next`. `None`: nothing.
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
    /// As lines of text, for a person.
    pub fn to_lines(&self) -> Vec<String> {
        let Readers { schema, grants, dependants } = &self.readers;
        let changes = self.changes.join("; ");
        let mut lines = vec![match (self.must_move, self.in_place) {
            (true, _) => format!(
                "readers of {schema} must change to other views, because these views keep showing the old generation: {changes}"
            ),
            (false, true) => format!("readers of {schema}: {changes}"),
            (false, false) => format!(
                "readers of {schema} need not change anything: their views keep their columns. New tables and columns are in new views, in a schema of their own: {changes}"
            ),
        }];
        match self.in_place {
            _ if grants.is_empty() => {}
            true => lines.push(format!("  grant on the new views what roles have now: {}", first_of(grants))),
            false => lines.push(format!("  the new views have the same grants: {}", first_of(grants))),
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
