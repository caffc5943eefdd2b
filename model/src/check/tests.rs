use crate::Descriptor;
use crate::problem::MAX_PROBLEMS;

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
    let text = problems(|json| json["statements"][0]["set"][0] = serde_json::json!({"colum": "customer"}));
    assert!(text.starts_with("statements[0].set[0]") && text.contains("write `column`"), "{text}");
    let text = problems(|json| json["statements"][0]["set"][0]["column"] = "custmer".into());
    assert!(text.contains("statements[0] \"order\": set[0]") && text.contains("write `customer`"), "{text}");
    let text = problems(|json| json["topics"][0]["statements"][0] = "oder".into());
    assert!(text.contains("\"oder\" is not declared; write `order`"), "{text}");
}

#[test]
fn names_that_sql_would_have_to_quote_are_refused() {
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

/// Generation 1 of `orders` is stored in the schema `orders_g1`, and version 2 of its views in `orders_v2`.
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
        assert!(
            text.contains("indexes[2]: this index would have the same name in the database as indexes[1]"),
            "{text}"
        );
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
    assert!(text.contains("not defined for `customer`, because its type is text"), "{text}");
}

#[test]
fn a_guard_is_among_the_columns_that_are_set() {
    let text = problems(|json| json["statements"][0]["guard"] = "total".into());
    assert!(text.contains("does not `set` its version `total`"), "{text}");
}

/// The largest descriptor that a host reads. Comparing each unknown name with each known name would take 80 million
/// comparisons.
#[test]
fn a_descriptor_with_many_problems_is_refused_quickly_and_briefly() {
    let names = |what: &str, count: usize| (0..count).map(|at| format!("{what}{at}")).collect::<Vec<_>>();
    let statement =
        |name: &String| serde_json::json!({"name": name, "table": "orders", "kind": "delete", "by": ["id"]});
    let unknown = |json: &mut serde_json::Value, statements: usize| {
        json["topics"][0]["statements"] = names("other", 80_000).into();
        json["statements"] = names("statement", statements).iter().map(statement).collect();
    };
    let text = problems(|json| unknown(json, 1_000));
    assert_eq!(text.lines().count(), MAX_PROBLEMS + 1);
    assert!(text.ends_with("and so on: 79900 more problems are not shown"), "{}", &text[text.len() - 100..]);
    assert_eq!(problems(|json| unknown(json, 1_001)), "statements: 1001 statements, and the limit is 1000");
}

/// The host and the database would need minutes for larger tables.
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
    assert!(text.contains("tables: all tables together have 501 indexes, and the limit is 500"), "{text}");
    assert!(tables(2, 51, 51).contains("tables[1] \"more1\": 51 indexes, and the limit is 50"));
    assert!(tables(41, 0, 496).contains("columns, and the limit is 20000"));
    let text = problems(|json| json["tables"][0]["key"] = (0..33).map(|at| format!("c{at}")).collect());
    assert!(text.contains("key: 33 columns, and the limit is 32"), "{text}");
}

#[test]
fn a_version_is_no_part_of_the_key() {
    let text = problems(|json| {
        json["tables"][0]["key"] = serde_json::json!(["id", "customer"]);
        json["statements"][0] = serde_json::json!({"name": "order", "table": "orders", "kind": "delete", "by": ["id", "customer"], "guard": "customer"});
    });
    assert!(text.contains("`customer` belongs to the key"), "{text}");
}
