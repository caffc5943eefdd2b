//! What belongs to a projection is out of reach for another one's plugin.

use projector_workload::ORDER_CONFIRMED;
use serde_json::{Value, json};

use crate::harness::{
    Guest, Platform, Plugins, ReadModel, SALES_BY_COUNTRY, assert_closed, descriptor, seed,
};

/// The tables and views that are not Postgres' own, with their owners' schemas.
const RELATIONS: &str = "select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname !~ '^(pg_|information_schema)' and n.nspname <> 'honest' and n.nspname <> 'honest_g1' order by 1";

/// Fault 35: by the name of a table, by the name of a projection, or by a topic.
#[test]
fn another_projections_tables_and_topics_are_refused() {
    let spoilt = |name: &str, spoil: &dyn Fn(&mut Value)| {
        let mut declared: Value = serde_json::from_str(&descriptor(name)).unwrap();
        spoil(&mut declared);
        Guest::describing(&declared.to_string()).component()
    };
    let writes =
        |table: &'static str| move |declared: &mut Value| declared["statements"][0]["table"] = table.into();
    let reads = |declared: &mut Value| declared["lookups"][0]["table"] = "sales_by_country".into();
    let owns = |declared: &mut Value| {
        for place in ["/tables/0/name", "/statements/0/table", "/lookups/0/table"] {
            *declared.pointer_mut(place).unwrap() = json!("sales_by_country_g1.sales_by_country");
        }
    };
    let listens = |declared: &mut Value| declared["topics"][0]["name"] = ORDER_CONFIRMED.into();
    let as_it_is = |_: &mut Value| {};
    // In the order of the files' names: each with what the log says of it.
    let refused: [(&str, Vec<u8>, &str); 7] = [
        ("listens.wasm", spoilt("listens", &listens), "`projections.listens.topics` does not allow"),
        ("owns.wasm", spoilt("owns", &owns), "tables[0]"),
        ("reads.wasm", spoilt("reads", &reads), "lookups[0]"),
        ("writes.wasm", spoilt("writes", &writes("sales_by_country")), "statements[0]"),
        (
            "writes-views.wasm",
            spoilt("writes-views", &writes("sales_by_country.sales_by_country")),
            "statements[0]",
        ),
        // Its readers' schema would be the one of the other's own tables.
        (
            "x-named.wasm",
            spoilt("sales-by-country-g1", &as_it_is),
            "where a generation of `sales-by-country` would be stored",
        ),
        // The schema that a promotion of the other one would make for its readers.
        (
            "x-viewed.wasm",
            spoilt("sales-by-country-v2", &as_it_is),
            "where readers of `sales-by-country` would find version 2 of its views",
        ),
    ];
    let honest = spoilt("honest", &as_it_is);
    let alone = Plugins::new(&[SALES_BY_COUNTRY]);
    let mut together = Plugins::new(&[SALES_BY_COUNTRY]).add("honest.wasm", honest);
    for (file, bytes, _) in &refused {
        together = together.add(file, bytes);
    }
    let platform = Platform::new("boundaries", &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["plugins", "directory"], alone.path())
        .set(&["projections", SALES_BY_COUNTRY, "topics"], vec![ORDER_CONFIRMED])
        .set(&["projections", "honest", "topics"], vec!["hostile.events.v1"])
        .set(&["projections", "listens", "topics"], vec!["hostile.events.v1"]);
    platform.create_topics(1);
    platform.publish(&platform.workload(seed(351), 300).records().collect::<Vec<_>>());
    let host = platform.start_host("before");
    platform.assert_sales_are_right();
    host.sigterm();
    let relations = platform.read_model().query(RELATIONS);

    let platform = platform.set(&["plugins", "directory"], together.path());
    let host = platform.start_host("beside them");
    for (file, _, reason) in &refused {
        host.log().wait_for(&format!("that {file} is refused: {reason}"), |line| {
            let said = format!("{}{}", line.field("reason"), line.field("error"));
            line.message().ends_with("refused") && line.field("file").ends_with(file) && said.contains(reason)
        });
    }
    platform.publish(&platform.workload(seed(352), 300).records().collect::<Vec<_>>());
    platform.assert_sales_are_right();
    assert_closed(&platform.until_through("honest"), 0, 0, 0);
    assert_eq!(platform.status().unwrap().len(), 2);
    assert_eq!(platform.read_model().query(RELATIONS), relations);
    host.sigterm();
}
