//! The tables of a generation as they are, and what a version makes of them: nothing new, additions in
//! place, or all rows anew. Pure.

use std::collections::BTreeMap;
use std::fmt;

use projector_model::Contract;
use projector_model::descriptor::{Column, Index};
use serde::{Deserialize, Serialize};

use crate::topics::{PhysicalTopics, TopicMapping};

/// A version, and what its topics are in the log.
#[derive(Clone, Copy)]
pub struct Offered<'a> {
    pub contract: &'a Contract,
    pub topics: &'a TopicMapping,
}

/// What has to stay as it is for rows to stay right. Stored with the generation, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub revision: u32,
    /// Topics by their logical names, and the group of those that are keyed alike.
    pub topics: BTreeMap<String, String>,
    /// What they are in the log, by their logical names: as it was declared, not what matched. It is read from
    /// there for as long as the generation lives, whatever the configuration says by now. Empty: unknown, as a
    /// host of an older version made it; then the first host that runs it stores what its configuration tells.
    #[serde(default)]
    pub physical: BTreeMap<String, PhysicalTopics>,
    pub tables: Vec<LaidTable>,
}

/// A table as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaidTable {
    pub name: String,
    pub columns: Vec<Column>,
    pub key: Vec<String>,
    pub indexes: Vec<Index>,
    pub lineage: bool,
    pub tombstones: bool,
}

/// What a version needs of the tables that are there.
#[derive(Debug, Clone, PartialEq)]
pub enum Fit {
    /// These additions, in this order; maybe none.
    InPlace(Vec<Step>),
    /// New tables, and all rows anew, for these reasons.
    Anew(Vec<String>),
}

/// Something that is added to tables in use.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    CreateTable { table: String },
    AddColumn { table: String, column: String },
    CreateIndex { table: String, index: Index },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::CreateTable { table } => write!(f, "create the table {table}"),
            Step::AddColumn { table, column } => write!(f, "add the column {table}.{column}"),
            Step::CreateIndex { table, index } => {
                write!(f, "create an index of {table} on {}", index.columns.join(", "))
            }
        }
    }
}

impl Step {
    /// What it locks in Postgres, for how long, and whom that keeps waiting.
    pub fn locks(&self) -> &'static str {
        match self {
            Step::CreateTable { .. } => "nothing that is in use",
            Step::AddColumn { .. } => {
                "the table, exclusively, for a moment (the catalog alone is changed); gives up after lock-timeout and is tried again"
            }
            Step::CreateIndex { .. } => {
                "nothing that keeps reads or writes waiting (concurrently; it waits for transactions that are open)"
            }
        }
    }
}

impl Layout {
    /// As a generation is made for a version.
    pub fn of(offered: Offered<'_>) -> Self {
        Self { physical: offered.topics.by_name(), ..Self::unmapped(offered.contract) }
    }

    /// The same where nothing tells what the topics are in the log.
    pub fn unmapped(contract: &Contract) -> Self {
        let declared = contract.descriptor.tables.iter().zip(&contract.tables);
        Self {
            physical: BTreeMap::new(),
            revision: contract.descriptor.revision,
            topics: contract
                .topics
                .iter()
                .map(|topic| (topic.name.clone(), topic.ordering_group.clone()))
                .collect(),
            tables: declared
                .map(|(table, checked)| LaidTable {
                    name: table.name.clone(),
                    columns: table.columns.clone(),
                    key: table.key.clone(),
                    indexes: table.indexes.clone(),
                    lineage: checked.has_lineage,
                    tombstones: checked.has_tombstones,
                })
                .collect(),
        }
    }

    pub fn table(&self, name: &str) -> Option<&LaidTable> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// What a version needs of these tables, while `active` uses them: what that one does not declare either
    /// was added for another version, and is left.
    pub fn fit(&self, offered: Offered<'_>, active: &Contract) -> Fit {
        let (wanted, used) = (Layout::of(offered), Layout::unmapped(active));
        let mut reasons = Vec::new();
        if self.revision != wanted.revision {
            reasons.push(format!("its revision is {}, and was {}", wanted.revision, self.revision));
        }
        let names = |layout: &Layout| layout.topics.keys().cloned().collect::<Vec<_>>();
        if names(self) != names(&wanted) {
            let (now, was) = (names(&wanted).join(", "), names(self).join(", "));
            reasons.push(format!("its topics are {now}, and were {was}"));
        } else if self.topics != wanted.topics {
            // What waits behind a dead letter would be of another key.
            reasons.push("it changes which of its topics are keyed alike".to_owned());
        }
        reasons.extend(self.remapped(offered.topics));
        let mut steps = Vec::new();
        for table in &wanted.tables {
            match self.table(&table.name) {
                None => {
                    steps.push(Step::CreateTable { table: table.name.clone() });
                }
                Some(laid) => laid.fit(table, used.table(&table.name), &mut steps, &mut reasons),
            }
        }
        for gone in used.tables.iter().filter(|table| wanted.table(&table.name).is_none()) {
            reasons.push(format!("it has no table {} any more", gone.name));
        }
        if reasons.is_empty() { Fit::InPlace(steps) } else { Fit::Anew(reasons) }
    }

    /// Which topics are another thing in the log than the generation is built from, in words.
    pub fn remapped(&self, wanted: &TopicMapping) -> Vec<String> {
        let changed = wanted.declared().iter().filter_map(|(logical, now)| {
            let was = self.physical.get(logical).filter(|was| *was != now)?;
            Some(format!("in the log, its topic {logical} is {now}, and was {was} (`kafka.topics`)"))
        });
        changed.collect()
    }

    /// What the topics of a version are in the log: as the generation is built, or, where that does not tell, as
    /// the configuration has it.
    pub fn mapping(&self, configured: &TopicMapping) -> TopicMapping {
        TopicMapping::new(
            configured
                .declared()
                .iter()
                .map(|(logical, now)| (logical.clone(), self.physical.get(logical).unwrap_or(now).clone())),
        )
    }

    /// With what its topics are in the log, where that was unknown.
    pub fn mapped(&self, topics: &TopicMapping) -> Layout {
        Layout { physical: topics.by_name(), ..self.clone() }
    }

    /// With what a version adds. What is there stays as it is, in its order.
    pub fn extended(&self, offered: Offered<'_>) -> Layout {
        let mut extended = self.clone();
        if extended.physical.is_empty() {
            extended.physical = offered.topics.by_name();
        }
        for table in Layout::unmapped(offered.contract).tables {
            match extended.tables.iter_mut().find(|laid| laid.name == table.name) {
                None => extended.tables.push(table),
                Some(laid) => {
                    let new = |column: &Column| !laid.columns.iter().any(|laid| laid.name == column.name);
                    let columns: Vec<Column> =
                        table.columns.iter().filter(|column| new(column)).cloned().collect();
                    laid.columns.extend(columns);
                    for index in table.indexes {
                        if !laid.indexes.contains(&index) {
                            laid.indexes.push(index);
                        }
                    }
                }
            }
        }
        extended
    }
}

impl LaidTable {
    fn fit(
        &self,
        wanted: &LaidTable,
        used: Option<&LaidTable>,
        steps: &mut Vec<Step>,
        reasons: &mut Vec<String>,
    ) {
        let table = &self.name;
        if self.key != wanted.key {
            reasons.push(format!("the key of {table} is another one"));
        }
        if self.tombstones != wanted.tombstones {
            reasons.push(format!("it changes whether {table} keeps the tombstones of guarded deletes"));
        }
        if self.lineage != wanted.lineage {
            reasons.push(format!("it changes whether the rows of {table} have lineage"));
        }
        for column in &wanted.columns {
            let name = &column.name;
            match self.columns.iter().find(|laid| laid.name == *name) {
                Some(laid) if laid == column => {}
                Some(laid) if laid.ty != column.ty => {
                    reasons.push(format!("{table}.{name} is {}, and was {}", column.ty, laid.ty));
                }
                Some(_) => reasons.push(format!("it changes whether {table}.{name} may be null")),
                None if column.nullable => {
                    steps.push(Step::AddColumn { table: table.clone(), column: name.clone() });
                }
                None => reasons.push(format!("{table}.{name} is new, and may not be null")),
            }
        }
        let is_gone = |used: &&Column| !wanted.columns.iter().any(|column| column.name == used.name);
        for gone in used.iter().flat_map(|used| &used.columns).filter(is_gone) {
            reasons.push(format!("it has no column {table}.{} any more", gone.name));
        }
        // An index that is not declared any more is left: it costs writes, and harms no row.
        for index in wanted.indexes.iter().filter(|index| !self.indexes.contains(index)) {
            steps.push(Step::CreateIndex { table: table.clone(), index: index.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use projector_model::Descriptor;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    fn descriptor() -> Json {
        json!({
            "name": "orders", "version": "1.0.0",
            "topics": [{"name": "t", "statements": ["put"]}],
            "tables": [{"name": "sale", "key": ["id"], "columns": [
                {"name": "id", "type": "int64"}, {"name": "total", "type": "int64", "nullable": true}]}],
            "statements": [{"name": "put", "table": "sale", "kind": "upsert", "set": [{"column": "total"}]}],
        })
    }

    fn contract(descriptor: &Json) -> Contract {
        match Descriptor::from_json(&descriptor.to_string()).and_then(Descriptor::check) {
            Ok(contract) => contract,
            Err(problems) => panic!("{problems}\n{descriptor:#}"),
        }
    }

    fn with(change: impl FnOnce(&mut Json)) -> Contract {
        let mut json = descriptor();
        change(&mut json);
        contract(&json)
    }

    fn mapping(physical: &str) -> TopicMapping {
        TopicMapping::new([("t".to_owned(), PhysicalTopics::named(physical).expect("legal"))])
    }

    fn offered<'a>(contract: &'a Contract, topics: &'a TopicMapping) -> Offered<'a> {
        Offered { contract, topics }
    }

    #[test]
    fn rows_are_built_anew_where_a_topic_is_another_one_in_the_log() {
        let active = contract(&descriptor());
        let (live, other) = (mapping("live.t"), mapping("other.t"));
        let pattern = PhysicalTopics::matching("^live.t$").expect("sound");
        let pattern = TopicMapping::new([("t".to_owned(), pattern)]);
        let built = Layout::of(offered(&active, &live));
        assert_eq!(built.fit(offered(&active, &live), &active), Fit::InPlace(vec![]));
        for another in [&other, &pattern] {
            let Fit::Anew(reasons) = built.fit(offered(&active, another), &active) else {
                panic!("it is another")
            };
            assert!(reasons[0].starts_with("in the log, its topic t is "), "{reasons:?}");
            // It goes on as it was built.
            assert_eq!(built.mapping(another), live);
        }
        // One that was made before this was kept is taken for what the configuration says.
        let old = Layout::unmapped(&active);
        assert_eq!(old.fit(offered(&active, &other), &active), Fit::InPlace(vec![]));
        assert_eq!(old.mapping(&other), other);
        assert_eq!(old.extended(offered(&active, &other)).mapping(&live), other);
    }

    fn fit(change: impl FnOnce(&mut Json)) -> Fit {
        let active = contract(&descriptor());
        let (wanted, topics) = (with(change), mapping("live.t"));
        Layout::of(offered(&active, &topics)).fit(offered(&wanted, &topics), &active)
    }

    fn add(list: &mut Json, item: Json) {
        list.as_array_mut().expect("a list").push(item);
    }

    #[test]
    fn additions_are_made_in_place() {
        let column = json!({"name": "note", "type": "text", "nullable": true});
        let index = json!({"columns": ["total"]});
        let table = json!({"name": "customer", "key": ["id"], "columns": [{"name": "id", "type": "int64"}]});
        let Fit::InPlace(steps) = fit(|json| {
            add(&mut json["tables"][0]["columns"], column);
            json["tables"][0]["indexes"] = json!([index]);
            add(&mut json["tables"], table);
        }) else {
            panic!("it fits")
        };
        let words: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            ["add the column sale.note", "create an index of sale on total", "create the table customer"]
        );
        assert_eq!(fit(|json| json["version"] = "2.0.0".into()), Fit::InPlace(vec![]));
    }

    #[test]
    fn whatever_rows_depend_on_is_a_reason_to_build_them_anew() {
        type Change = fn(&mut Json);
        let changes: [(&str, Change); 9] = [
            ("its revision is 2, and was 1", |json| json["revision"] = 2.into()),
            ("its topics are u, and were t", |json| json["topics"][0]["name"] = "u".into()),
            ("keyed alike", |json| json["topics"][0]["ordering-group"] = "orders".into()),
            ("sale.total is text, and was int64", |json| {
                json["tables"][0]["columns"][1]["type"] = "text".into();
            }),
            ("whether sale.total may be null", |json| {
                json["tables"][0]["columns"][1]["nullable"] = false.into();
            }),
            ("has lineage", |json| json["tables"][0]["lineage"] = true.into()),
            ("sale.note is new, and may not be null", |json| {
                add(&mut json["tables"][0]["columns"], json!({"name": "note", "type": "text"}));
                add(&mut json["statements"][0]["set"], json!({"column": "note"}));
            }),
            ("the key of sale is another one", |json| {
                json["tables"][0]["columns"][1]["nullable"] = false.into();
                json["tables"][0]["key"] = json!(["id", "total"]);
                json["statements"][0]["set"] = json!([]);
                json["statements"][0]["kind"] = "insert-once".into();
            }),
            ("no table sale any more", |json| {
                json["tables"][0]["name"] = "other".into();
                json["statements"][0]["table"] = "other".into();
            }),
        ];
        for (expected, change) in changes {
            let expected = expected.replace("has lineage", "have lineage");
            match fit(change) {
                Fit::Anew(reasons) => assert!(
                    reasons.iter().any(|reason| reason.contains(&expected)),
                    "{expected}: {reasons:?}"
                ),
                fit => panic!("{expected}: {fit:?}"),
            }
        }
    }

    #[test]
    fn what_is_added_stands_behind_what_is_there() {
        let longer = with(|json| {
            add(&mut json["tables"][0]["columns"], json!({"name": "a", "type": "text", "nullable": true}));
        });
        let one = Layout::unmapped(&contract(&descriptor()));
        let longer = one.extended(offered(&longer, &mapping("t")));
        let names: Vec<_> = longer.tables[0].columns.iter().map(|column| &*column.name).collect();
        assert_eq!(names, ["id", "total", "a"]);
    }

    proptest! {
        /// Whatever is added in whatever order: it fits once it was added, and so does every version before.
        #[test]
        fn an_extended_layout_fits_the_version_that_it_was_extended_for(
            additions in proptest::collection::vec((0..3_u8, "[a-z]{1,8}"), 0..6),
        ) {
            let mut json = descriptor();
            let mut active = contract(&json);
            let topics = mapping("t");
            let mut layout = Layout::of(offered(&active, &topics));
            for (kind, name) in additions {
                let name = format!("x_{name}");
                let mut next = json.clone();
                match kind {
                    0 => {
                        let column = json!({"name": name, "type": "text", "nullable": true});
                        next["tables"][0]["columns"].as_array_mut().expect("a list").insert(0, column);
                    }
                    1 => add(&mut next["tables"], json!({"name": name, "key": ["id"],
                        "columns": [{"name": "id", "type": "int64"}]})),
                    _ => next["tables"][0]["indexes"] = json!([{"columns": ["total"]}]),
                }
                // Names that are there already are no additions.
                let Ok(checked) = Descriptor::from_json(&next.to_string()).and_then(Descriptor::check) else {
                    continue;
                };
                prop_assert!(matches!(layout.fit(offered(&checked, &topics), &active), Fit::InPlace(_)));
                layout = layout.extended(offered(&checked, &topics));
                prop_assert_eq!(layout.fit(offered(&checked, &topics), &checked), Fit::InPlace(vec![]));
                // One that was made for the version before, as well: it leaves what it does not know.
                prop_assert_eq!(layout.fit(offered(&active, &topics), &active), Fit::InPlace(vec![]));
                let stored: Layout = serde_json::from_str(&serde_json::to_string(&layout).expect("JSON")).expect("JSON");
                prop_assert_eq!(&stored, &layout);
                (json, active) = (next, checked);
            }
        }
    }
}
