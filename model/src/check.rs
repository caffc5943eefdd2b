//! The descriptor's check: from the words an author wrote to a contract that the host can rely on.

use std::fmt;

use crate::change::codes;
use crate::contract::{self, Contract, Guard};
use crate::descriptor::{
    Code, Descriptor, EventId, IdPart, IndexKind, OnMiss, Operation, Statement, StatementKind, Table,
};
use crate::names;
use crate::reserved;
use crate::value::Type;

/// One thing wrong with a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: `statements[2] "country-of-orders": set[0]`.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead, when that can be told.
    pub remedy: Option<String>,
}

/// Everything wrong with a descriptor, in its order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        self.0.iter().try_for_each(|problem| {
            if !std::mem::take(&mut first) {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")
        })
    }
}

/// Postgres truncates longer identifiers in silence.
const MAX_IDENTIFIER_BYTES: usize = 63;
/// A statement's index travels as a u16.
const MAX_STATEMENTS: usize = 1_000;
const MAX_TABLES: usize = 100;
const MAX_COLUMNS: usize = 500;
/// Of all tables together. Each of these is made, and locked, when the tables are.
const MAX_ALL_COLUMNS: usize = 20_000;
const MAX_ALL_INDEXES: usize = 500;
/// Of one table: each makes every write to it dearer.
const MAX_INDEXES: usize = 50;
/// Of a key, of an index, or of what rows are selected by: Postgres indexes no more.
const MAX_KEY_COLUMNS: usize = 32;
const MAX_LOOKUP_ROWS: u32 = 10_000;
/// Shown at once.
const MAX_PROBLEMS: usize = 100;

pub(crate) fn check(descriptor: Descriptor) -> Result<Contract, Problems> {
    let mut checker = Checker::default();
    // What is too large is not looked at any further: a check has to be done soon.
    checker.sizes(&descriptor);
    checker.done()?;
    let contract = checker.contract(descriptor);
    checker.done()?;
    Ok(contract)
}

/// "did you mean" for serde's `unknown field `x`, expected one of `a`, `b``.
pub(crate) fn nearest_expected(message: &str) -> Option<String> {
    let (unknown, expected) = message.split_once(", expected ")?;
    let quoted =
        |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let given = quoted(unknown).pop()?;
    let known = quoted(expected);
    let nearest = nearest(&given, known.iter().map(String::as_str))?;
    Some(format!("write `{nearest}`"))
}

/// The known word that is most like the given one, if any is at all.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|word| (strsim::jaro_winkler(given, word), word))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

#[derive(Default)]
struct Checker {
    problems: Vec<Problem>,
    /// Those beyond [`MAX_PROBLEMS`].
    more: usize,
}

impl Checker {
    fn problem(&mut self, place: &str, message: impl Into<String>, remedy: impl Into<Option<String>>) {
        if self.has_enough() {
            self.more += 1;
            return;
        }
        self.problems.push(Problem { place: place.into(), message: message.into(), remedy: remedy.into() });
    }

    /// Whether no more problems are shown, and no more remedies looked for.
    fn has_enough(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS
    }

    /// Fails if there were any problems.
    fn done(&mut self) -> Result<(), Problems> {
        let mut problems = std::mem::take(&mut self.problems);
        if self.more > 0 {
            let message = format!("{} more problems", self.more);
            problems.push(Problem { place: "and so on".into(), message, remedy: None });
        }
        if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
    }

    fn sizes(&mut self, descriptor: &Descriptor) {
        for (list, count, most) in [
            ("statements", descriptor.statements.len(), MAX_STATEMENTS),
            ("lookups", descriptor.lookups.len(), MAX_STATEMENTS),
            ("topics", descriptor.topics.len(), MAX_STATEMENTS),
            ("tables", descriptor.tables.len(), MAX_TABLES),
        ] {
            if count > most {
                self.problem(list, format!("{count} {list}, and {most} are the most"), None);
            }
        }
        for (at, table) in descriptor.tables.iter().enumerate() {
            let columns = table.columns.len();
            if columns > MAX_COLUMNS {
                let place = place("tables", at, &table.name);
                self.problem(&place, format!("{columns} columns, and {MAX_COLUMNS} are the most"), None);
            }
            let indexes = table.indexes.len();
            if indexes > MAX_INDEXES {
                let place = place("tables", at, &table.name);
                self.problem(&place, format!("{indexes} indexes, and {MAX_INDEXES} are the most"), None);
            }
            let keys = std::iter::once((&table.key, "key".to_owned()));
            let indexes = table
                .indexes
                .iter()
                .enumerate()
                .map(|(at, index)| (&index.columns, format!("indexes[{at}]")));
            for (columns, what) in keys.chain(indexes).filter(|(columns, _)| columns.len() > MAX_KEY_COLUMNS)
            {
                let place = format!("{}: {what}", place("tables", at, &table.name));
                let columns = columns.len();
                self.problem(&place, format!("{columns} columns, and {MAX_KEY_COLUMNS} are the most"), None);
            }
        }
        let sum = |count: fn(&Table) -> usize| descriptor.tables.iter().map(count).sum::<usize>();
        for (what, count, most) in [
            ("columns", sum(|table| table.columns.len()), MAX_ALL_COLUMNS),
            ("indexes", sum(|table| table.indexes.len()), MAX_ALL_INDEXES),
        ] {
            if count > most {
                let remedy = "make several projections of it".to_string();
                self.problem("tables", format!("{count} {what} in all, and {most} are the most"), remedy);
            }
        }
    }

    fn contract(&mut self, descriptor: Descriptor) -> Contract {
        self.header(&descriptor);
        let tables = self.tables(&descriptor);
        let writes: Vec<_> = descriptor
            .statements
            .iter()
            .enumerate()
            .filter_map(|(at, statement)| {
                self.write(&place("statements", at, &statement.name), statement, &tables)
            })
            .collect();
        let lookups: Vec<_> = descriptor
            .lookups
            .iter()
            .enumerate()
            .filter_map(|(at, lookup)| self.lookup(&place("lookups", at, &lookup.name), lookup, &tables))
            .collect();
        self.unique("statements", descriptor.statements.iter().map(|statement| statement.name.as_str()));
        self.unique("lookups", descriptor.lookups.iter().map(|lookup| lookup.name.as_str()));
        self.codes("ignores", &descriptor.ignores);
        self.codes("rejects", &descriptor.rejects);
        let topics = self.topics(&descriptor);
        let mut tables = tables;
        for write in &writes {
            tables[write.table].has_tombstones |=
                write.kind == StatementKind::Delete && write.guard.is_some();
        }
        Contract { descriptor, topics, tables, writes, lookups }
    }

    fn header(&mut self, descriptor: &Descriptor) {
        let name = &descriptor.name;
        if !names::is_well_formed(name) {
            let most = names::MAX_BYTES;
            self.problem(
                "name",
                format!("{name:?} cannot be a projection's name"),
                format!(
                    "write lowercase letters, digits and single dashes, beginning with a letter, at most {most} characters"
                ),
            );
        }
        if let Some(reason) = names::taken(name) {
            self.problem("name", reason, "choose another name".to_string());
        }
        if reserved::is_word(&names::schema(name)) {
            self.problem(
                "name",
                format!("{name:?} is a reserved word"),
                "choose another name: readers would have to quote it".to_string(),
            );
        }
        if descriptor.version.is_empty()
            || descriptor.version.len() > 100
            || descriptor.version.chars().any(char::is_control)
        {
            self.problem(
                "version",
                "the version is empty, longer than 100 bytes, or has control characters",
                "write it like 1.4.0".to_string(),
            );
        }
        if descriptor.topics.is_empty() {
            self.problem(
                "topics",
                "a projection without topics has nothing to do",
                "declare the topics that it reads".to_string(),
            );
        }
    }

    fn tables(&mut self, descriptor: &Descriptor) -> Vec<contract::Table> {
        if descriptor.tables.is_empty() {
            self.problem("tables", "a projection owns at least one table", None);
        }
        self.unique("tables", descriptor.tables.iter().map(|table| table.name.as_str()));
        descriptor
            .tables
            .iter()
            .enumerate()
            .map(|(at, table)| {
                let place = place("tables", at, &table.name);
                self.identifier(&place, &table.name);
                if table.name.contains("__") {
                    self.problem(&place, "a table's name has no double underscore", "write a single one".to_string());
                }
                let columns: Vec<_> = table
                    .columns
                    .iter()
                    .enumerate()
                    .map(|(at, column)| {
                        self.identifier(&format!("{place}: columns[{at}]"), &column.name);
                        contract::Column { name: column.name.clone(), ty: column.ty, nullable: column.nullable }
                    })
                    .collect();
                self.unique(&format!("{place}: columns"), table.columns.iter().map(|column| column.name.as_str()));
                let mut resolved = contract::Table {
                    name: table.name.clone(),
                    columns,
                    key: Vec::new(),
                    indexes: Vec::new(),
                    has_tombstones: false,
                    has_lineage: table.lineage,
                };
                resolved.key = self.columns(&format!("{place}: key"), &table.key, &resolved);
                if table.key.is_empty() {
                    self.problem(&place, "no key", "name the columns of its primary key in `key`".to_string());
                }
                for column in &resolved.key {
                    let column = &resolved.columns[*column];
                    if column.nullable {
                        self.problem(&format!("{place}: key"), format!("key column `{}` is nullable", column.name), "make it not nullable".to_string());
                    }
                    self.comparable(&format!("{place}: key"), column);
                }
                let indexes = table
                    .indexes
                    .iter()
                    .enumerate()
                    .map(|(at, index)| {
                        let place = format!("{place}: indexes[{at}]");
                        let columns = self.columns(&place, &index.columns, &resolved);
                        if columns.is_empty() {
                            self.problem(&place, "an index without columns", None);
                        }
                        match index.kind {
                            IndexKind::Ordered => columns
                                .iter()
                                .filter(|column| resolved.columns[**column].ty == Type::Json)
                                .for_each(|column| self.comparable(&place, &resolved.columns[*column])),
                            IndexKind::Contains => {
                                if !matches!(columns[..], [column] if resolved.columns[column].ty == Type::Json) {
                                    self.problem(&place, "an index of kind `contains` is over one json column", None);
                                }
                            }
                        }
                        contract::Index { columns, kind: index.kind }
                    })
                    .collect();
                // Each name of an index is made of its columns' names.
                let names: Vec<String> =
                    table.indexes.iter().map(|index| names::index_suffix(&index.columns)).collect();
                for (at, name) in names.iter().enumerate() {
                    if let Some(first) = names[..at].iter().position(|other| other == name) {
                        self.problem(
                            &format!("{place}: indexes[{at}]"),
                            format!("it has the name of indexes[{first}], which has the same columns, or columns whose names join to the same text"),
                            "declare each index once, or rename a column".to_string(),
                        );
                    }
                }
                resolved.indexes = indexes;
                resolved
            })
            .collect()
    }

    fn write(
        &mut self,
        place: &str,
        statement: &Statement,
        tables: &[contract::Table],
    ) -> Option<contract::Write> {
        self.name(place, &statement.name);
        let table_index = self.table(place, &statement.table, tables)?;
        let table = &tables[table_index];
        let by_given = self.columns(&format!("{place}: by"), &statement.by, table);
        let set = self.assignments(place, statement, table);
        let writes_key = matches!(statement.kind, StatementKind::Upsert | StatementKind::InsertOnce);
        let by = if writes_key {
            if !statement.by.is_empty() {
                self.problem(
                    &format!("{place}: by"),
                    "an upsert or insert-once writes the row of its key",
                    "leave `by` out: the key's values are its first arguments".to_string(),
                );
            }
            self.lists_not_null(place, &set, table);
            table.key.clone()
        } else {
            self.selects(place, &by_given, table);
            by_given
        };
        if statement.kind == StatementKind::Delete && !statement.set.is_empty() {
            self.problem(&format!("{place}: set"), "a delete sets nothing", "leave `set` out".to_string());
        }
        if statement.kind == StatementKind::Update && statement.set.is_empty() {
            self.problem(
                &format!("{place}: set"),
                "an update without columns does nothing",
                "list the columns that it writes".to_string(),
            );
        }
        if statement.kind == StatementKind::InsertOnce
            && let Some(odd) = statement.set.iter().find(|assignment| assignment.operation != Operation::Set)
        {
            self.problem(
                &format!("{place}: set"),
                format!("column `{}`: an insert-once has no operation but `set`", odd.column),
                "use an upsert".to_string(),
            );
        }
        if writes_key && statement.on_miss == OnMiss::Reject {
            self.problem(
                &format!("{place}: on-miss"),
                "an upsert or insert-once never misses",
                "leave `on-miss` out".to_string(),
            );
        }
        let mut write = contract::Write {
            name: statement.name.clone(),
            table: table_index,
            kind: statement.kind,
            by,
            set,
            guard: None,
            on_miss: statement.on_miss,
        };
        write.guard = self.guard(place, statement, &write, table);
        Some(write)
    }

    fn assignments(
        &mut self,
        place: &str,
        statement: &Statement,
        table: &contract::Table,
    ) -> Vec<(usize, Operation)> {
        self.unique(
            &format!("{place}: set"),
            statement.set.iter().map(|assignment| assignment.column.as_str()),
        );
        let mut set = Vec::with_capacity(statement.set.len());
        for (at, assignment) in statement.set.iter().enumerate() {
            let place = format!("{place}: set[{at}]");
            let Some(index) = self.column(&place, &assignment.column, table) else { continue };
            let column = &table.columns[index];
            if table.is_key_column(index) {
                self.problem(
                    &place,
                    format!("`{}` belongs to the key, which a row keeps for life", column.name),
                    "leave it out of `set`".to_string(),
                );
            }
            let defined = match assignment.operation {
                Operation::Add => column.ty.is_addable(),
                Operation::Min | Operation::Max => column.ty.is_ordered(),
                Operation::Set | Operation::SetIfNull | Operation::Keep => true,
            };
            if !defined {
                let operation = serde_json::to_string(&assignment.operation).unwrap_or_default();
                let types = if assignment.operation == Operation::Add {
                    "int64 and decimal"
                } else {
                    "numbers, text, timestamps and dates"
                };
                self.problem(
                    &place,
                    format!("{operation} is not defined for `{}`, a {}", column.name, column.ty),
                    format!("it is for {types}"),
                );
            }
            if assignment.operation == Operation::SetIfNull && !column.nullable {
                self.problem(
                    &place,
                    format!("`{}` is never null", column.name),
                    "write `keep`, or make the column nullable".to_string(),
                );
            }
            set.push((index, assignment.operation));
        }
        set
    }

    /// Postgres checks NOT NULL before it looks for the conflict, so an upsert must be able to
    /// insert.
    fn lists_not_null(&mut self, place: &str, set: &[(usize, Operation)], table: &contract::Table) {
        for (index, column) in table.columns.iter().enumerate() {
            let listed = set.iter().any(|(listed, _)| *listed == index);
            if !column.nullable && !listed && !table.is_key_column(index) {
                self.problem(
                    &format!("{place}: set"),
                    format!(
                        "column `{}` is not nullable and not listed, so no row could be inserted",
                        column.name
                    ),
                    "list it (with `keep` if a stored value shall stay), or make it nullable".to_string(),
                );
            }
        }
    }

    /// Columns that select rows: comparable, and the key or the first columns of an index.
    fn selects(&mut self, place: &str, by: &[usize], table: &contract::Table) {
        let place = &format!("{place}: by");
        if by.is_empty() {
            self.problem(
                place,
                "no columns to select the rows by",
                "name the key's columns, or those of an index".to_string(),
            );
            return;
        }
        for column in by {
            self.comparable(place, &table.columns[*column]);
        }
        let leads = |columns: &[usize]| {
            columns.len() >= by.len() && columns[..by.len()].iter().all(|column| by.contains(column))
        };
        let supported = leads(&table.key)
            || table.indexes.iter().any(|index| index.kind == IndexKind::Ordered && leads(&index.columns));
        if !supported {
            let names =
                table.column_names(by).map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            self.problem(
                place,
                format!("no index of `{}` supports this, so every event would scan the table", table.name),
                format!("declare the index {{\"columns\": [{names}]}} on it"),
            );
        }
    }

    fn guard(
        &mut self,
        place: &str,
        statement: &Statement,
        write: &contract::Write,
        table: &contract::Table,
    ) -> Option<Guard> {
        let place = &format!("{place}: guard");
        let column = self.column(place, statement.guard.as_deref()?, table)?;
        let name = &table.columns[column].name;
        if table.is_key_column(column) {
            self.problem(
                place,
                format!("`{name}` belongs to the key, which a row keeps for life"),
                "a version is a column of its own".to_string(),
            );
        }
        if !matches!(
            table.columns[column].ty,
            Type::Int64 | Type::Timestamp | Type::Decimal { .. } | Type::Text
        ) {
            self.problem(
                place,
                format!("`{name}` is a {}", table.columns[column].ty),
                "a version is an int64, a timestamp, a decimal or a text".to_string(),
            );
        }
        match write.kind {
            StatementKind::InsertOnce => {
                self.problem(
                    place,
                    "an insert-once never touches a stored row, so it needs no guard",
                    "leave `guard` out".to_string(),
                );
                None
            }
            StatementKind::Delete => {
                if !table.is_key(&write.by) {
                    self.problem(
                        place,
                        "a guarded delete is by the key: its tombstone is the row's",
                        "select by the key".to_string(),
                    );
                }
                Some(Guard { column, argument: write.by.len() })
            }
            StatementKind::Upsert | StatementKind::Update => {
                let position =
                    write.set.iter().position(|assignment| *assignment == (column, Operation::Set));
                if position.is_none() {
                    self.problem(
                        place,
                        format!("the statement does not `set` its version `{name}`"),
                        format!("add {{\"column\": \"{name}\"}} to `set`"),
                    );
                }
                Some(Guard { column, argument: write.by.len() + position? })
            }
        }
    }

    fn lookup(
        &mut self,
        place: &str,
        lookup: &crate::descriptor::Lookup,
        tables: &[contract::Table],
    ) -> Option<contract::Lookup> {
        self.name(place, &lookup.name);
        let table_index = self.table(place, &lookup.table, tables)?;
        let table = &tables[table_index];
        let by = self.columns(&format!("{place}: by"), &lookup.by, table);
        self.selects(place, &by, table);
        let columns = self.columns(&format!("{place}: columns"), &lookup.columns, table);
        if columns.is_empty() {
            self.problem(&format!("{place}: columns"), "no columns to return", "name them".to_string());
        }
        if lookup.limit == 0 || lookup.limit > MAX_LOOKUP_ROWS {
            self.problem(
                &format!("{place}: limit"),
                format!("a limit of {}", lookup.limit),
                format!("write 1 to {MAX_LOOKUP_ROWS}"),
            );
        }
        let limit = if table.is_key(&by) { 1 } else { lookup.limit };
        Some(contract::Lookup { name: lookup.name.clone(), table: table_index, by, columns, limit })
    }

    fn topics(&mut self, descriptor: &Descriptor) -> Vec<contract::Topic> {
        self.unique("topics", descriptor.topics.iter().map(|topic| topic.name.as_str()));
        let statements: Vec<&str> =
            descriptor.statements.iter().map(|statement| statement.name.as_str()).collect();
        let lookups: Vec<&str> = descriptor.lookups.iter().map(|lookup| lookup.name.as_str()).collect();
        descriptor
            .topics
            .iter()
            .enumerate()
            .map(|(at, topic)| {
                let place = place("topics", at, &topic.name);
                let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
                if topic.name.is_empty()
                    || topic.name.len() > 249
                    || !topic.name.bytes().all(legal)
                    || topic.name == "."
                    || topic.name == ".."
                {
                    self.problem(
                        &place,
                        "this cannot be a topic's name",
                        "write letters, digits, dots, dashes and underscores, at most 249".to_string(),
                    );
                }
                if let Some(group) = &topic.ordering_group {
                    self.name(&format!("{place}: ordering-group"), group);
                }
                if topic.wait_seconds == Some(0) {
                    self.problem(
                        &format!("{place}: wait-seconds"),
                        "an event that waits for no time does not wait",
                        "write how long after an event its row may come, or leave it out".to_string(),
                    );
                }
                contract::Topic {
                    wait_seconds: topic.wait_seconds,
                    name: topic.name.clone(),
                    ordering_group: topic.ordering_group.clone().unwrap_or_else(|| topic.name.clone()),
                    writes: self.granted(&format!("{place}: statements"), &topic.statements, &statements),
                    lookups: self.granted(&format!("{place}: lookups"), &topic.lookups, &lookups),
                    event_id: topic
                        .event_id
                        .as_ref()
                        .and_then(|id| self.event_id(&format!("{place}: event-id"), id)),
                }
            })
            .collect()
    }

    fn event_id(&mut self, place: &str, id: &EventId) -> Option<contract::EventId> {
        let parts = match (&id.header, &id.field, &id.parts[..]) {
            (Some(header), None, []) => vec![IdPart::Header(header.clone())],
            (None, Some(field), []) => vec![IdPart::Field(field.clone())],
            (None, None, [_, ..]) => id.parts.clone(),
            _ => {
                self.problem(
                    place,
                    "an event's id is in one place, or in several parts",
                    "name either a `header`, or a `field`, or list `parts`".to_string(),
                );
                return None;
            }
        };
        let repeated = parts.iter().enumerate().find(|(at, part)| parts[..*at].contains(part));
        if let Some((at, _)) = repeated {
            self.problem(
                &format!("{place}: parts[{at}]"),
                "this part of the id is named twice",
                "name each part once".to_string(),
            );
        }
        if id.window_seconds == 0 {
            self.problem(
                &format!("{place}: window-seconds"),
                "an id that is not remembered tells no duplicates",
                "write how long after an event its duplicate may come".to_string(),
            );
        }
        Some(contract::EventId { parts, window_seconds: id.window_seconds })
    }

    fn granted(&mut self, place: &str, named: &[String], declared: &[&str]) -> Vec<bool> {
        let mut granted = vec![false; declared.len()];
        for name in named {
            match declared.iter().position(|declared| declared == name) {
                Some(index) => granted[index] = true,
                None => self.unknown(place, name, declared.iter().copied()),
            }
        }
        granted
    }

    fn codes(&mut self, list: &str, codes: &[Code]) {
        self.unique(list, codes.iter().map(|code| code.code.as_str()));
        for (at, code) in codes.iter().enumerate() {
            let place = place(list, at, &code.code);
            self.name(&place, &code.code);
            if codes::BUILT_IN.contains(&code.code.as_str()) {
                self.problem(&place, "this code is the host's own", "choose another one".to_string());
            }
        }
    }

    fn table(&mut self, place: &str, name: &str, tables: &[contract::Table]) -> Option<usize> {
        let found = tables.iter().position(|table| table.name == name);
        if found.is_none() {
            self.unknown(&format!("{place}: table"), name, tables.iter().map(|table| table.name.as_str()));
        }
        found
    }

    fn columns(&mut self, place: &str, names: &[String], table: &contract::Table) -> Vec<usize> {
        self.unique(place, names.iter().map(String::as_str));
        names.iter().filter_map(|name| self.column(place, name, table)).collect()
    }

    fn column(&mut self, place: &str, name: &str, table: &contract::Table) -> Option<usize> {
        let found = table.columns.iter().position(|column| column.name == name);
        if found.is_none() {
            if self.has_enough() {
                self.more += 1;
                return None;
            }
            let known = table.columns.iter().map(|column| column.name.as_str());
            let remedy = nearest(name, known).map(|nearest| format!("write `{nearest}`"));
            self.problem(place, format!("table `{}` has no column {name:?}", table.name), remedy);
        }
        found
    }

    fn unknown<'a>(&mut self, place: &str, name: &str, known: impl Iterator<Item = &'a str>) {
        if self.has_enough() {
            self.more += 1;
            return;
        }
        let remedy = nearest(name, known).map(|nearest| format!("write \"{nearest}\""));
        self.problem(place, format!("{name:?} is not declared"), remedy);
    }

    fn comparable(&mut self, place: &str, column: &contract::Column) {
        if !column.ty.is_comparable() {
            self.problem(
                place,
                format!("rows cannot be selected by `{}`, a {}", column.name, column.ty),
                "use a column of another type".to_string(),
            );
        }
    }

    fn unique<'a>(&mut self, place: &str, names: impl Iterator<Item = &'a str>) {
        let mut seen = std::collections::HashSet::new();
        for name in names {
            if !seen.insert(name) {
                self.problem(place, format!("{name:?} stands twice"), "each name stands once".to_string());
            }
        }
    }

    /// A name of the author's own, for people and metrics: never part of SQL.
    fn name(&mut self, place: &str, name: &str) {
        let legal = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        };
        if name.is_empty() || name.len() > MAX_IDENTIFIER_BYTES || !name.bytes().all(legal) {
            self.problem(place, format!("{name:?} cannot be a name"), format!("write lowercase letters, digits, dashes, dots and underscores, at most {MAX_IDENTIFIER_BYTES}"));
        }
    }

    /// A name that becomes part of SQL.
    fn identifier(&mut self, place: &str, name: &str) {
        let well_formed = name.len() <= MAX_IDENTIFIER_BYTES
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !well_formed {
            self.problem(
                place,
                format!("{name:?} cannot be an identifier"),
                format!("write lowercase letters, digits and underscores, beginning with a letter, at most {MAX_IDENTIFIER_BYTES}"),
            );
        } else if reserved::is_word(name) || name.starts_with("sqlite_") || name.starts_with("pg_") {
            self.problem(
                place,
                format!("`{name}` is a reserved word"),
                "choose another name: readers would have to quote it".to_string(),
            );
        }
    }
}

fn place(list: &str, at: usize, name: &str) -> String {
    format!("{list}[{at}] {name:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut json = serde_json::json!({
            "name": "order-search", "version": "1.0.0",
            "topics": [{"name": "orders", "statements": ["order"]}],
            "tables": [{
                "name": "orders", "key": ["id"], "indexes": [{"columns": ["customer"]}],
                "columns": [
                    {"name": "id", "type": "text"}, {"name": "customer", "type": "text"},
                    {"name": "total", "type": "int64", "nullable": true}, {"name": "items", "type": "json", "nullable": true},
                ],
            }],
            "statements": [{"name": "order", "table": "orders", "kind": "upsert", "set": [{"column": "customer"}]}],
        });
        change(&mut json);
        match Descriptor::from_json(&json.to_string()).and_then(Descriptor::check) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn a_sound_descriptor_has_no_problems() {
        assert_eq!(problems(|_| ()), "");
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_nearest_one() {
        let text =
            problems(|json| json["statements"][0]["set"][0] = serde_json::json!({"colum": "customer"}));
        assert!(text.starts_with("statements[0].set[0]") && text.contains("write `column`"), "{text}");
        let text = problems(|json| json["statements"][0]["set"][0]["column"] = "custmer".into());
        assert!(
            text.contains("statements[0] \"order\": set[0]") && text.contains("write `customer`"),
            "{text}"
        );
        let text = problems(|json| json["topics"][0]["statements"][0] = "oder".into());
        assert!(text.contains("\"oder\" is not declared; write \"order\""), "{text}");
    }

    #[test]
    fn names_that_could_reach_sql_are_refused() {
        for name in [
            "o\"; drop table x; --",
            "select",
            "Orders",
            "ORDERS",
            "заказ",
            "_hidden",
            "",
            &"a".repeat(64),
            "pg_class",
            "a b",
        ] {
            assert!(!problems(|json| json["tables"][0]["name"] = name.into()).is_empty(), "table {name:?}");
            assert!(
                !problems(|json| json["tables"][0]["columns"][2]["name"] = name.into()).is_empty(),
                "column {name:?}"
            );
        }
        let names = ["public", "projector", "pg-catalog", "a--b", "a_b", "-a", "a;b", "user", "current-user"];
        for name in names.into_iter().chain([&*"a".repeat(41)]) {
            assert!(!problems(|json| json["name"] = name.into()).is_empty(), "projection {name:?}");
        }
    }

    /// The generation 1 of `orders` is stored in the schema `orders_g1`, and readers may find it in `orders_v1`.
    #[test]
    fn a_projection_is_not_named_like_anothers_generation() {
        let text = problems(|json| json["name"] = "orders-g1".into());
        assert!(text.contains("a generation of `orders`"), "{text}");
        let text = problems(|json| json["name"] = "orders-v2".into());
        assert!(text.contains("where readers of `orders` would find version 2 of its views"), "{text}");
        for name in ["orders-g", "orders-1", "g1", "v2", "orders-g1-b", "orders-eg1"] {
            assert_eq!(problems(|json| json["name"] = name.into()), "");
        }
    }

    #[test]
    fn two_indexes_of_a_table_have_two_names() {
        let indexes = |first: &[&str], second: &[&str]| {
            problems(|json| {
                let column = |name: &str| serde_json::json!({"name": name, "type": "text", "nullable": true});
                json["tables"][0]["columns"]
                    .as_array_mut()
                    .expect("a list")
                    .extend(["a", "b", "a__b", "b__a"].map(column));
                json["tables"][0]["indexes"]
                    .as_array_mut()
                    .expect("a list")
                    .extend([first, second].map(|columns| serde_json::json!({"columns": columns})));
            })
        };
        assert_eq!(indexes(&["a", "b"], &["b", "a"]), "");
        for (first, second) in [(&["a"][..], &["a"][..]), (&["a", "b__a"], &["a__b", "a"])] {
            let text = indexes(first, second);
            assert!(text.contains("indexes[2]: it has the name of indexes[1]"), "{text}");
        }
    }

    #[test]
    fn an_upsert_must_be_able_to_insert() {
        let text = problems(|json| json["statements"][0]["set"] = serde_json::json!([{"column": "total"}]));
        assert!(text.contains("`customer` is not nullable and not listed"), "{text}");
    }

    #[test]
    fn a_selection_without_an_index_names_the_index() {
        let text = problems(|json| {
            json["statements"][0] = serde_json::json!({"name": "order", "table": "orders", "kind": "update", "by": ["total"], "set": [{"column": "customer"}]});
        });
        assert!(text.contains(r#"declare the index {"columns": ["total"]}"#), "{text}");
    }

    #[test]
    fn operations_are_for_the_types_they_are_defined_for() {
        let text = problems(|json| {
            json["statements"][0]["set"] = serde_json::json!([{"column": "customer", "operation": "add"}])
        });
        assert!(text.contains("not defined for `customer`, a text"), "{text}");
    }

    #[test]
    fn a_guard_is_among_the_columns_that_are_set() {
        let text = problems(|json| json["statements"][0]["guard"] = "total".into());
        assert!(text.contains("does not `set` its version `total`"), "{text}");
    }

    /// As much as a host reads before it knows any better. Likenesses take time: 80 million of them.
    #[test]
    fn much_that_is_wrong_is_refused_soon_and_shortly() {
        let names = |what: &str, count: usize| (0..count).map(|at| format!("{what}{at}")).collect::<Vec<_>>();
        let statement = |name: &String| serde_json::json!({"name": name, "table": "orders", "kind": "delete", "by": ["id"]});
        let unknown = |json: &mut serde_json::Value, statements: usize| {
            json["topics"][0]["statements"] = names("other", 80_000).into();
            json["statements"] = names("statement", statements).iter().map(statement).collect();
        };
        let text = problems(|json| unknown(json, 1_000));
        assert_eq!(text.lines().count(), MAX_PROBLEMS + 1);
        assert!(text.ends_with("and so on: 79900 more problems"), "{}", &text[text.len() - 100..]);
        assert_eq!(
            problems(|json| unknown(json, 1_001)),
            "statements: 1001 statements, and 1000 are the most"
        );
    }

    /// A host would be busy with these tables for minutes, and the database with it.
    #[test]
    fn tables_are_bounded_in_all() {
        let tables = |tables: usize, indexes: usize, columns: usize| {
            problems(|json| {
                let names: Vec<String> = (0..columns).map(|at| format!("c{at}")).collect();
                let of = |name: &String| serde_json::json!({"name": name, "type": "int64", "nullable": true});
                let mut table = json["tables"][0].clone();
                table["columns"].as_array_mut().expect("a list").extend(names.iter().map(of));
                table["indexes"] =
                    names[..indexes].iter().map(|name| serde_json::json!({"columns": [name]})).collect();
                let more = (1..tables).map(|at| {
                    let mut table = table.clone();
                    table["name"] = format!("more{at}").into();
                    table
                });
                json["tables"].as_array_mut().expect("a list").extend(more);
            })
        };
        assert_eq!(tables(10, 50, 50), "");
        let text = tables(11, 50, 50);
        assert!(text.contains("tables: 501 indexes in all, and 500 are the most"), "{text}");
        assert!(tables(2, 51, 51).contains("tables[1] \"more1\": 51 indexes, and 50 are the most"));
        assert!(tables(41, 0, 496).contains("columns in all, and 20000 are the most"));
        let text = problems(|json| json["tables"][0]["key"] = (0..33).map(|at| format!("c{at}")).collect());
        assert!(text.contains("key: 33 columns, and 32 are the most"), "{text}");
    }

    #[test]
    fn a_version_is_no_part_of_the_key() {
        let text = problems(|json| {
            json["tables"][0]["key"] = serde_json::json!(["id", "customer"]);
            json["statements"][0] = serde_json::json!({"name": "order", "table": "orders", "kind": "delete", "by": ["id", "customer"], "guard": "customer"});
        });
        assert!(text.contains("`customer` belongs to the key"), "{text}");
    }
}
