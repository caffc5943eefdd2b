//! The views that readers know, as plain data.
//!
//! Views of one schema (Postgres), or of one prefix (SQLite), have columns that never change, so that what readers
//! prepared goes on working. A generation may show itself in several of them: a column that is new is shown in a new
//! set of views, and the sets before it go on without that column. The newest set shows all columns.

use projector_model::descriptor::Column;
use serde::{Deserialize, Serialize};

use crate::layout::{LaidTable, Layout};

/// The views of one schema or prefix. Stored with the generation that they show, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewSet {
    pub schema: String,
    /// Counts the sets of a projection. The first set has no number in its name.
    pub version: i32,
    pub views: Vec<View>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Of the view, and of the table that it shows.
    pub table: String,
    pub columns: Vec<ViewColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub ty: String,
}

impl View {
    pub fn of(table: &LaidTable) -> Self {
        let column = |column: &Column| ViewColumn { name: column.name.clone(), ty: column.ty.to_string() };
        Self { table: table.name.clone(), columns: table.columns.iter().map(column).collect() }
    }

    /// Whether a table has all of the columns.
    fn fits(&self, table: &LaidTable) -> bool {
        let of_table = Self::of(table).columns;
        self.columns.iter().all(|column| of_table.contains(column))
    }
}

impl ViewSet {
    /// All that a layout has.
    pub fn of(schema: String, version: i32, layout: &Layout) -> Self {
        Self { schema, version, views: layout.tables.iter().map(View::of).collect() }
    }

    /// Whether a generation of this layout can be shown in these views, so that readers cannot tell it from another.
    pub fn fits(&self, layout: &Layout) -> bool {
        self.views.iter().all(|view| layout.table(&view.table).is_some_and(|table| view.fits(table)))
    }

    /// Whether they show all tables and columns of a layout.
    pub fn shows_all(&self, layout: &Layout) -> bool {
        self.fits(layout) && self.missing(layout).is_empty() && self.has_all_columns(layout)
    }

    /// Whether they show all columns of the tables that they show.
    pub fn has_all_columns(&self, layout: &Layout) -> bool {
        let has_all = |view: &View| {
            layout.table(&view.table).is_none_or(|table| view.columns.len() == table.columns.len())
        };
        self.views.iter().all(has_all)
    }

    /// Tables that have no view here.
    pub fn missing<'l>(&self, layout: &'l Layout) -> Vec<&'l LaidTable> {
        let is_missing = |table: &&LaidTable| !self.views.iter().any(|view| view.table == table.name);
        layout.tables.iter().filter(is_missing).collect()
    }

    /// What readers of these views see change when a generation of another layout is shown: views and columns that
    /// are new, gone, or of another type.
    pub fn changes(&self, next: &Layout) -> Vec<String> {
        let mut changes = Vec::new();
        for View { table, columns } in &self.views {
            let Some(then) = next.table(table) else {
                changes.push(format!("the view {table} is gone"));
                continue;
            };
            let then = View::of(then).columns;
            for column in columns {
                match then.iter().find(|then| then.name == column.name) {
                    None => changes.push(format!("the column {table}.{} is gone", column.name)),
                    Some(then) if then.ty != column.ty => {
                        changes
                            .push(format!("{table}.{} is {}, and was {}", column.name, then.ty, column.ty));
                    }
                    Some(_) => {}
                }
            }
            let is_new = |then: &&ViewColumn| !columns.iter().any(|column| column.name == then.name);
            let new = then.iter().filter(is_new);
            changes.extend(new.map(|column| format!("the column {table}.{} is new", column.name)));
        }
        changes.extend(self.missing(next).into_iter().map(|table| format!("the view {} is new", table.name)));
        changes
    }
}

/// The views that show all of a generation, or else its newest ones.
pub fn newest<'s>(sets: &'s [ViewSet], layout: &Layout) -> Option<&'s ViewSet> {
    sets.iter().rfind(|set| set.shows_all(layout)).or(sets.last())
}

/// What has to be made so that some views show all of a generation.
#[derive(Debug, PartialEq, Eq)]
pub enum Cover {
    /// Nothing.
    Covered,
    /// Views of tables that are new: no reader's list of columns changes.
    Grow { version: i32, views: Vec<View> },
    /// A new set, under the next number.
    Make,
}

/// The sets in the order of their versions.
pub fn cover(sets: &[ViewSet], layout: &Layout) -> Cover {
    if sets.iter().any(|set| set.shows_all(layout)) {
        return Cover::Covered;
    }
    match sets.iter().rfind(|set| set.fits(layout) && set.has_all_columns(layout)) {
        Some(set) => {
            let views = set.missing(layout).into_iter().map(View::of).collect();
            Cover::Grow { version: set.version, views }
        }
        None => Cover::Make,
    }
}

#[cfg(test)]
mod tests {
    use projector_model::Descriptor;
    use serde_json::{Value as Json, json};

    use super::*;

    fn layout(change: impl FnOnce(&mut Json)) -> Layout {
        let mut json = json!({
            "name": "orders", "version": "1.0.0",
            "topics": [{"name": "t", "statements": ["put"]}],
            "tables": [{"name": "sale", "key": ["id"], "columns": [
                {"name": "id", "type": "int64"}, {"name": "total", "type": "int64", "nullable": true}]}],
            "statements": [{"name": "put", "table": "sale", "kind": "upsert", "set": [{"column": "total"}]}],
        });
        change(&mut json);
        match Descriptor::from_json(&json.to_string()).and_then(Descriptor::check) {
            Ok(contract) => Layout::unmapped(&contract),
            Err(problems) => panic!("{problems}\n{json:#}"),
        }
    }

    fn add(list: &mut Json, item: Json) {
        list.as_array_mut().expect("a list").push(item);
    }

    fn with_note(json: &mut Json) {
        add(&mut json["tables"][0]["columns"], json!({"name": "note", "type": "text", "nullable": true}));
    }

    fn with_extra(json: &mut Json) {
        let extra = json!({"name": "extra", "key": ["id"], "columns": [{"name": "id", "type": "int64"}]});
        add(&mut json["tables"], extra);
    }

    #[test]
    fn what_changes_for_readers_is_named() {
        let now = layout(|_| {});
        let next = layout(|json| {
            json["tables"][0]["columns"][1]["type"] = "text".into();
            with_note(json);
            with_extra(json);
        });
        let of = |layout: &Layout| ViewSet::of("orders".into(), 1, layout);
        assert_eq!(
            of(&now).changes(&next),
            ["sale.total is text, and was int64", "the column sale.note is new", "the view extra is new"]
        );
        assert_eq!(of(&next).changes(&now)[1..], ["the column sale.note is gone", "the view extra is gone"]);
        assert!(of(&now).changes(&now).is_empty());
    }

    #[test]
    fn new_tables_get_views_beside_the_others_and_new_columns_a_set_of_their_own() {
        let sets = [ViewSet::of("orders".into(), 1, &layout(|_| {}))];
        assert_eq!(cover(&sets, &layout(|_| {})), Cover::Covered);
        let Cover::Grow { version: 1, views } = cover(&sets, &layout(with_extra)) else {
            panic!("no list of columns changes")
        };
        assert_eq!(views[0].table, "extra");
        assert_eq!(cover(&sets, &layout(with_note)), Cover::Make);
        let both = [sets[0].clone(), ViewSet::of("orders_v2".into(), 2, &layout(with_note))];
        assert_eq!(newest(&both, &layout(with_note)), Some(&both[1]));
        assert_eq!(newest(&both, &layout(|_| {})), Some(&both[0]), "it shows all that there is");
    }

    #[test]
    fn views_fit_whatever_has_their_columns_in_whatever_order() {
        let now = ViewSet::of("orders".into(), 1, &layout(|_| {}));
        let swapped = layout(|json| json["tables"][0]["columns"].as_array_mut().expect("a list").reverse());
        assert!(now.fits(&swapped) && now.shows_all(&swapped));
        let longer = layout(with_note);
        assert!(now.fits(&longer) && !now.has_all_columns(&longer) && !now.shows_all(&longer));
        let more = layout(with_extra);
        assert!(now.fits(&more) && now.has_all_columns(&more) && !now.shows_all(&more));
        assert_eq!(now.missing(&more)[0].name, "extra");
        let other = layout(|json| json["tables"][0]["columns"][1]["type"] = "text".into());
        assert!(!now.fits(&other));
        assert!(!ViewSet::of("orders".into(), 1, &longer).fits(&layout(|_| {})));
    }
}
