//! The names that the host derives from a projection's name, and the names that a projection cannot have.
//!
//! Why: projections share a database and a Kafka cluster.
//!
//! Invariants:
//! - Two projections, or two generations, never derive the same name.
//! - A derived name is never a name that the host, Postgres or SQLite uses itself. (In SQLite the host's own tables are
//!   named `projector_…`, without a double underscore.)
//! - A stored generation keeps the names that it was created with.
//!
//! The check of a descriptor refuses every projection's name that would break this: see `taken`.

use std::fmt::Display;

use crate::reserved;

/// The longest name of a projection, in bytes. The names derived from it still fit into Postgres' 63 bytes.
pub const MAX_BYTES: usize = 40;

/// The schema of a projection's first views. In SQLite, which has no schemas: the prefix of the views' names.
pub fn schema(projection: &str) -> String {
    projection.replace('-', "_")
}

/// The schema (in SQLite: the prefix) of a generation's tables.
pub fn generation_schema(projection: &str, number: i32) -> String {
    format!("{}_g{number}", schema(projection))
}

/// The schema (in SQLite: the prefix) of a later version of the views. Each version has another list of columns.
pub fn versioned_schema(projection: &str, number: i32) -> String {
    format!("{}_v{number}", schema(projection))
}

/// The schema (in SQLite: the prefix) of a version of the views. Version 1 has no number in its name.
pub fn views_schema(projection: &str, version: i32) -> String {
    match version {
        1 => schema(projection),
        version => versioned_schema(projection, version),
    }
}

/// The version of the views in a schema (in SQLite: with a prefix). The reverse of [`views_schema`].
pub fn views_version(projection: &str, views: &str) -> i32 {
    let number = views.strip_prefix(&schema(projection)).and_then(|rest| rest.strip_prefix("_v"));
    number.and_then(|number| number.parse().ok()).unwrap_or(1)
}

/// The name of a table or view in SQLite. The double underscore is unambiguous, because no table's name contains one.
pub fn prefixed(schema: &str, table: &str) -> String {
    format!("{schema}__{table}")
}

/// The part of an index's name in SQLite that follows the table's name.
pub fn index_suffix(columns: &[String]) -> String {
    format!("__by_{}", columns.join("__"))
}

/// The consumer group of a generation. The store's id is part of it, so hosts with different stores never share a group.
pub fn consumer_group(prefix: &str, projection: &str, number: i32, store: impl Display) -> String {
    format!("{prefix}.{projection}.g{number}.{store}")
}

/// The group id of the client that queries the brokers. This client never joins a group.
pub fn questions_group(prefix: &str) -> String {
    format!("{prefix}.questions")
}

/// Whether a projection's name is well formed. The other functions of this module expect a well-formed name.
pub(crate) fn is_well_formed(name: &str) -> bool {
    name.len() <= MAX_BYTES
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.contains("--")
        && !name.ends_with('-')
}

/// Why a projection cannot have a well-formed name. `None`: the name is free.
pub(crate) fn taken(name: &str) -> Option<String> {
    // Derived names would begin with `pg_` or `sqlite_`, which the databases reserve: `pg_g1`, `sqlite__orders`.
    let of_database = ["pg", "sqlite"]
        .into_iter()
        .any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')));
    if of_database || reserved::NAMES.contains(&name) {
        return Some(format!("{name:?} is reserved by the database or by Projector"));
    }
    let (other, last) = name.rsplit_once('-')?;
    let number = |letter: char| {
        let number = last.strip_prefix(letter)?;
        (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
    };
    if number('g').is_some() {
        return Some(format!("{name:?} is where a generation of `{other}` would be stored"));
    }
    let number = number('v')?;
    Some(format!("{name:?} is where readers of `{other}` would find version {number} of its views"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const STORES: [&str; 2] =
        ["6f3c1a52-0000-4000-8000-000000000001", "6f3c1a52-0000-4000-8000-000000000002"];

    /// Names from few parts that look like the parts that the host adds. So names that could collide are generated often.
    /// Some of the names are not well formed.
    fn name() -> impl Strategy<Value = String> {
        let beginning = prop::sample::select(vec!["a", "a", "a", "g1", "pg", "sqlite"]);
        let end =
            || prop::sample::select(vec!["", "", "", "-b", "-g1", "-g2", "-v1", "-v10", "-", "--b", "--b"]);
        (beginning, end(), end()).prop_map(|(beginning, middle, end)| format!("{beginning}{middle}{end}"))
    }

    fn identifier() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "b_", "g1", "v1", "g1_a", "v2_b", "by_a"]).prop_map(str::to_owned)
    }

    /// Every name that is derived from a projection: first the system in which it must be unique, and the name; then what
    /// the name is for.
    fn derived(projection: &str, tables: &[String], prefix: &str) -> Vec<((&'static str, String), String)> {
        let mut all = Vec::new();
        for number in [1, 2, 10] {
            let schemas = [
                // All generations share this schema.
                (schema(projection), format!("{projection} readers")),
                (generation_schema(projection, number), format!("{projection} tables {number}")),
                (versioned_schema(projection, number), format!("{projection} readers {number}")),
            ];
            for (schema, what) in schemas {
                for table in tables {
                    all.push((("sqlite", prefixed(&schema, table)), format!("{what} {table}")));
                    let index = prefixed(&schema, &format!("{table}{}", index_suffix(&["a".into()])));
                    all.push((("sqlite", index), format!("{what} index of {table}")));
                }
                all.push((("postgres", schema), what));
            }
            for store in STORES {
                let what = format!("{prefix} {projection} {number} {store}");
                all.push((("kafka", consumer_group(prefix, projection, number, store)), what));
            }
        }
        all.push((("kafka", questions_group(prefix)), format!("{prefix} questions")));
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn no_two_derived_names_meet(
            projections in prop::collection::btree_set(name(), 2..6),
            tables in prop::collection::btree_set(identifier(), 1..5),
            prefixes in prop::collection::btree_set("[abg]1?(\\.[abg]1?)?", 1..3),
        ) {
            let tables: Vec<String> = tables.into_iter().collect();
            let mut owners: HashMap<(&str, String), String> = HashMap::new();
            for projection in projections.iter().filter(|name| is_well_formed(name) && taken(name).is_none()) {
                for prefix in &prefixes {
                    for (name, what) in derived(projection, &tables, prefix) {
                        prop_assert!(name.1.len() <= 63 || name.0 == "kafka", "{name:?} is cut off");
                        let own = ["pg_", "sqlite_"];
                        let theirs = name.0 != "kafka" && own.iter().any(|own| name.1.starts_with(own));
                        prop_assert!(!theirs, "{name:?} is the database's own");
                        let owner = owners.entry(name.clone()).or_insert_with(|| what.clone());
                        prop_assert_eq!(&*owner, &what, "both are {:?}", name);
                    }
                }
            }
        }
    }

    #[test]
    fn views_version_is_the_reverse_of_views_schema() {
        for version in [1, 2, 10] {
            assert_eq!(views_version("a-b", &views_schema("a-b", version)), version);
        }
    }

    #[test]
    fn the_longest_name_fits_with_the_largest_number() {
        let longest = "a".repeat(MAX_BYTES);
        assert!(is_well_formed(&longest));
        assert!(generation_schema(&longest, i32::MAX).len() <= 63);
        assert!(versioned_schema(&longest, i32::MAX).len() <= 63);
    }

    #[test]
    fn a_name_that_only_looks_like_a_derived_name_is_free() {
        for name in
            ["orders-g", "orders-v", "v2", "g1", "orders-v2-b", "orders-ev2", "orders-2", "pgx", "sqlitex"]
        {
            assert_eq!(taken(name), None, "{name}");
        }
        for name in ["orders-v2", "orders-g1", "a-v2-v3", "pg", "pg-x", "sqlite", "sqlite-x", "projector"] {
            assert!(taken(name).is_some(), "{name}");
        }
    }
}
