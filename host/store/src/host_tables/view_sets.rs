//! Which views a generation has.

use projector_core::generation::GenerationStatus;
use projector_core::layout::Layout;
use projector_core::refusal::Refusal;
use projector_core::views::{self, Cover, ViewSet};
use projector_model::names;

use super::Session;
use super::generation_tables::{GenerationTables, LaidTables};
use crate::error::StoreError;

/// The next set of views of a projection, under a number that none of its sets has.
pub(super) fn next_views(generations: &[GenerationStatus], projection: &str, layout: &Layout) -> ViewSet {
    let last = generations.iter().flat_map(|generation| &generation.views).map(|set| set.version).max();
    let version = last.unwrap_or(0) + 1;
    ViewSet::of(names::views_schema(projection, version), version, layout)
}

/// The generation that is shown by the views of a schema, these views, and the other views that show it. Refused if the
/// other views do not show all of it.
pub(super) fn retirable_views<'g>(
    generations: &'g [GenerationStatus],
    schema: &str,
) -> Result<(&'g GenerationStatus, ViewSet, Vec<ViewSet>), Refusal> {
    let has_them = |generation: &&GenerationStatus| generation.views.iter().any(|set| set.schema == schema);
    let generation = generations.iter().find(has_them);
    let generation = generation.ok_or_else(|| Refusal::NoViews { schema: schema.to_owned() })?;
    let (retired, mut left): (Vec<ViewSet>, Vec<ViewSet>) =
        generation.views.iter().cloned().partition(|set| set.schema == schema);
    if !left.iter().any(|set| set.shows_all(&generation.layout)) {
        let number = generation.generation.number;
        return Err(Refusal::OnlyViews { schema: schema.to_owned(), number });
    }
    left.sort_by_key(|set| set.version);
    let retired = retired.into_iter().next().ok_or_else(|| Refusal::NoViews { schema: schema.to_owned() })?;
    Ok((generation, retired, left))
}

/// Creates what is missing until some of a generation's views show all of it: views of new tables beside the others, or,
/// if the columns of a table changed, a new set of views. The new set gets the rights and the options of the views `like`.
pub(super) async fn complete_views<D: GenerationTables>(
    transaction: &mut D::Connection,
    tables: LaidTables<'_>,
    views: &mut Vec<ViewSet>,
    next: ViewSet,
    like: Option<&ViewSet>,
) -> Result<(), StoreError> {
    match views::cover(views, tables.layout) {
        Cover::Covered => {}
        Cover::Grow { version, views: more } => {
            for set in views.iter_mut().filter(|set| set.version == version) {
                D::add_views(transaction, &set.schema, &more, tables).await?;
                set.views.extend(more.iter().cloned());
            }
        }
        Cover::Make => {
            D::create_views(transaction, &next, tables, like).await?;
            views.push(next);
        }
    }
    Ok(())
}

/// Stores which views show a generation.
pub(super) async fn set_views<S: Session>(
    session: &mut S,
    generation: i64,
    views: &[ViewSet],
    layout: &Layout,
) -> Result<(), StoreError> {
    let sql =
        format!("update projector.generation set readers = $2, views = {} where id = $1", S::document("$3"));
    let newest = views::newest(views, layout).map(|newest| &*newest.schema);
    let views = serde_json::to_string(views).expect("views are plain data");
    session.execute(&sql, &[generation.into(), newest.into(), views.into()]).await.map(drop)
}
