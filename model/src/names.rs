//! The names that the host derives from a projection's name, and the names that a projection cannot have
//! because of them.
//!
//! Projections share a database and a Kafka cluster. So a name that is derived from one projection must never
//! be a name that is derived from another one, of any generation, or a name that the host, Postgres or SQLite
//! uses itself (the host's tables in SQLite are named `projector_…` with no double underscore). [`taken`] refuses
//! every projection's name that would break this. A stored generation keeps the names that it was made with.

use std::fmt::Display;

use crate::reserved;

/// The longest name of a projection: what is derived from it still fits Postgres' 63 bytes.
pub const MAX_BYTES: usize = 40;

/// The schema of the views that readers know from the beginning. SQLite has no schemas: the prefix of their
/// names.
pub fn schema(projection: &str) -> String {
    projection.replace('-', "_")
}

/// The schema, or prefix, of a generation's tables.
pub fn generation_schema(projection: &str, number: i32) -> String {
    format!("{}_g{number}", schema(projection))
}

/// The schema, or prefix, of views whose columns are not those that readers know: `number` counts lists of columns.
pub fn versioned_schema(projection: &str, number: i32) -> String {
    format!("{}_v{number}", schema(projection))
}

/// The schema, or prefix, of a projection's views: the first list of columns has no number in it.
pub fn views_schema(projection: &str, version: i32) -> String {
    match version {
        1 => schema(projection),
        version => versioned_schema(projection, version),
    }
}

/// The number of the list of columns that a schema, or prefix, of views has.
pub fn views_version(projection: &str, views: &str) -> i32 {
    let number = views.strip_prefix(&schema(projection)).and_then(|rest| rest.strip_prefix("_v"));
    number.and_then(|number| number.parse().ok()).unwrap_or(1)
}

/// The name of a table or view in SQLite. No table's name has a double underscore.
pub fn prefixed(schema: &str, table: &str) -> String {
    format!("{schema}__{table}")
}

/// What follows the table's name in the name of an index in SQLite.
pub fn index_suffix(columns: &[String]) -> String {
    format!("__by_{}", columns.join("__"))
}

/// The consumer group of a generation. The store's id keeps hosts with different stores apart.
pub fn consumer_group(prefix: &str, projection: &str, number: i32, store: impl Display) -> String {
    format!("{prefix}.{projection}.g{number}.{store}")
}

/// The group id of the client that asks brokers. It never joins a group.
pub fn questions_group(prefix: &str) -> String {
    format!("{prefix}.questions")
}

/// Whether a projection's name is well formed: the only names that the rest of this module is given.
pub(crate) fn is_well_formed(name: &str) -> bool {
    name.len() <= MAX_BYTES
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.contains("--")
        && !name.ends_with('-')
}

/// Why a projection cannot have a well-formed name: what else the name, or one that is derived from it, is.
pub(crate) fn taken(name: &str) -> Option<String> {
    // `pg` and `sqlite` too: `pg_g1` and `sqlite__orders` are names that the databases keep for themselves.
    let of_database = ["pg", "sqlite"]
        .into_iter()
        .any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')));
    if of_database || reserved::NAMES.contains(&name) {
        return Some(format!("{name:?} is a name of the database's own, or of Projector's"));
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

    /// Few beginnings and ends that look like what the host adds, so that names which could meet are made
    /// often; some are not well formed.
    fn name() -> impl Strategy<Value = String> {
        let beginning = prop::sample::select(vec!["a", "a", "a", "g1", "pg", "sqlite"]);
        let end =
            || prop::sample::select(vec!["", "", "", "-b", "-g1", "-g2", "-v1", "-v10", "-", "--b", "--b"]);
        (beginning, end(), end()).prop_map(|(beginning, middle, end)| format!("{beginning}{middle}{end}"))
    }

    fn identifier() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "b_", "g1", "v1", "g1_a", "v2_b", "by_a"]).prop_map(str::to_owned)
    }

    /// Every name that comes from a projection: what it is, by the place where it must be the only one.
    fn derived(projection: &str, tables: &[String], prefix: &str) -> Vec<((&'static str, String), String)> {
        let mut all = Vec::new();
        for number in [1, 2, 10] {
            let schemas = [
                // Readers know it whatever the generation is.
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
    fn the_number_of_a_list_of_columns_is_in_the_name_of_its_views() {
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
    fn what_looks_like_a_derived_name_and_is_none_is_free() {
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
