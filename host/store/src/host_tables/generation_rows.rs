//! The rows of generations.

use projector_core::generation::{Generation, GenerationStatus, Role};
use projector_core::layout::Layout;
use projector_core::views::{self, ViewSet};
use projector_model::{Descriptor, names};

use super::Session;
use crate::error::StoreError;

/// A projection's generations, oldest first.
pub(crate) async fn generations<S: Session>(
    session: &mut S,
    projection: &str,
) -> Result<Vec<GenerationStatus>, StoreError> {
    let rows: Vec<GenerationRow> = session
        .rows(
            "select g.id, g.projection, g.number, g.table_schema, g.role, cast(g.layout as text) as layout,
               g.active_digest, cast(c.descriptor as text) as descriptor, g.readers, cast(g.views as text) as views,
               g.caught_up_at is not null as caught_up, g.backfilling
             from projector.generation g join projector.component c on c.digest = g.active_digest
             where g.projection = $1 order by g.number",
            &[projection.into()],
        )
        .await?;
    rows.into_iter().map(GenerationRow::status).collect()
}

struct GenerationRow {
    id: i64,
    projection: String,
    number: i32,
    table_schema: String,
    role: String,
    layout: Option<String>,
    active_digest: String,
    descriptor: String,
    /// The schema, or prefix, of the newest views. Hosts of older versions store only these.
    readers: Option<String>,
    views: Option<String>,
    caught_up: bool,
    backfilling: bool,
}

from_row! {
    GenerationRow {
        id, projection, number, table_schema, role, layout, active_digest, descriptor, readers, views, caught_up,
        backfilling
    }
}

impl GenerationRow {
    fn status(self) -> Result<GenerationStatus, StoreError> {
        let unusable = |what: &str, error: &dyn std::fmt::Display| {
            StoreError::Unusable(format!("the {what} of {} {}: {error}", self.projection, self.number))
        };
        let descriptor =
            Descriptor::from_json(&self.descriptor).map_err(|problems| unusable("descriptor", &problems))?;
        let layout = match &self.layout {
            Some(json) => serde_json::from_str(json).map_err(|error| unusable("layout", &error))?,
            // Created by a host of an older version, which stored none.
            None => {
                let contract = descriptor.clone().check();
                Layout::unmapped(&contract.map_err(|problems| unusable("descriptor", &problems))?)
            }
        };
        let role = role(&self.role)?;
        let mut views: Vec<ViewSet> = match &self.views {
            Some(json) => serde_json::from_str(json).map_err(|error| unusable("views", &error))?,
            None => Vec::new(),
        };
        let newest = views::newest(&views, &layout);
        let is_current = newest.map(|newest| &*newest.schema) == self.readers.as_deref()
            && newest.is_none_or(|newest| newest.shows_all(&layout));
        // Otherwise a host of an older version changed the views: it stored only the newest of them.
        if !is_current {
            let moved = newest.map(|newest| newest.schema.clone());
            views.retain(|set| Some(&set.schema) != moved.as_ref());
            if let Some(readers) = self.readers {
                let version = names::views_version(&self.projection, &readers);
                views.retain(|set| set.schema != readers);
                views.push(ViewSet::of(readers, version, &layout));
                views.sort_by_key(|set| set.version);
            }
        }
        Ok(GenerationStatus {
            generation: Generation {
                id: self.id,
                projection: self.projection,
                number: self.number,
                schema: self.table_schema,
            },
            role,
            layout,
            active: self.active_digest,
            descriptor,
            views,
            caught_up: self.caught_up,
            backfilling: self.backfilling,
        })
    }
}

/// A generation's role, from its stored word.
pub(super) fn role(word: &str) -> Result<Role, StoreError> {
    Role::from_word(word)
        .ok_or_else(|| StoreError::Unusable(format!("a generation that is {word:?}: made by a newer host?")))
}
