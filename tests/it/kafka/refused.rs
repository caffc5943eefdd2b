//! What must not run is refused at load, beside projections that run: they do not notice, and
//! nothing of it is left in the database.

use std::fs;

use projector_workload::Record;

use crate::harness::{
    Guest, Host, Line, Platform, Plugins, ReadModel, SALES_BY_COUNTRY, assert_closed, bomb, describing,
    descriptor, eventually, malicious, seed,
};

/// Every schema, relation and column that is not Postgres' own.
const CATALOGUE: &str =
    "select table_schema || '.' || table_name || '.' || column_name from information_schema.columns
    where table_schema not in ('pg_catalog', 'information_schema')
    union all select schema_name from information_schema.schemata where schema_name !~ '^pg_'
    union all select rolname from pg_roles
    union all select datname from pg_database where datname not like 'it\\_%'
    order by 1";

/// Fault 28: the reason of each refusal is in the log, with the file.
#[test]
fn a_bad_file_is_refused_and_its_neighbours_run() {
    let sound = describing(&descriptor("sound")).component();
    let whole = Plugins::new(&[SALES_BY_COUNTRY]);
    let whole = fs::read(whole.directory().join("sales-by-country.wasm")).unwrap();
    let module = wat::parse_str(describing(&descriptor("module")).text_format()).unwrap();
    let bad: [(&str, &[u8], &str); 6] = [
        ("bomb.wasm", &bomb(6_000), "the compilation took longer than 10s"),
        ("half.wasm", &whole[..whole.len() / 2], "the file is not a WebAssembly component"),
        ("module.wasm", &module, "convert it with `projector component"),
        (
            "speechless.wasm",
            &describing("{}").describe("(unreachable)").component(),
            "the plugin's `describe` failed: trap",
        ),
        ("nameless.wasm", &describing("{}").component(), "the plugin's descriptor is not valid"),
        // After the one that it would replace, in the order of their names.
        (
            "zz-second.wasm",
            &describing(&descriptor("sound")).project("(unreachable)").component(),
            "sound.wasm already has a component of projection sound",
        ),
    ];
    let mut plugins = Plugins::new(&[SALES_BY_COUNTRY])
        .add("sound.wasm", &sound)
        .add("notes.txt", "not a plugin")
        // Somebody is about to write it.
        .add("empty.wasm", "");
    for (file, bytes, _) in &bad {
        plugins = plugins.add(file, bytes);
    }
    let platform = Platform::new("refused", &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path())
        // Minutes too short for the bomb, and enough for the others on a busy machine.
        .set(&["limits", "compile-time"], "10s");
    platform.create_topics(1);
    platform.publish(&platform.workload(seed(28), 200).records().collect::<Vec<_>>());
    let topic = platform.topic("hostile.events.v1");
    platform.publish(&[Record::new(&*topic, "k", "A")]);
    let host = platform.start_host("host");
    platform.assert_sales_are_right();
    assert_closed(&platform.until_through("sound"), 1, 0, 0);
    assert_eq!(platform.status().unwrap().len(), 2);
    until_refused(&host, bad.len());
    let log = host.sigterm();
    let refused: Vec<_> = log.lines().into_iter().filter(is_refusal).collect();
    for (file, _, reason) in &bad {
        let line = refused.iter().find(|line| line.field("file").ends_with(file));
        let line = line.unwrap_or_else(|| panic!("{file} was not refused: {refused:#?}"));
        assert!(line.field("reason").contains(reason), "{file}: {}", line.text);
        assert_eq!(line.field("level"), "ERROR");
    }
    assert_eq!(refused.len(), bad.len(), "{refused:#?}");
}

fn is_refusal(line: &Line) -> bool {
    line.message().starts_with("plugin refused")
}

/// Files are looked at one after the other, beside what runs.
fn until_refused(host: &Host, files: usize) {
    eventually("all of them are refused", || {
        match host.log().lines().iter().filter(|line| is_refusal(line)).count() {
            refused if refused == files => Ok(()),
            refused => Err(refused),
        }
    });
}

/// Fault 33: of names that mean harm nothing comes to the database.
#[test]
fn malicious_names_leave_no_trace_in_the_database() {
    let good = Plugins::new(&[SALES_BY_COUNTRY]);
    let mut all = Plugins::new(&[SALES_BY_COUNTRY]);
    let malicious = malicious();
    for (at, (_, _, descriptor)) in malicious.iter().enumerate() {
        all = all
            .add(&format!("malicious-{at:03}.wasm"), Guest::describing(&descriptor.to_string()).component());
    }
    let platform = Platform::new("names", &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["plugins", "directory"], good.path());
    platform.create_topics(1);
    platform.publish(&platform.workload(seed(33), 100).records().collect::<Vec<_>>());
    let host = platform.start_host("without");
    platform.assert_sales_are_right();
    host.sigterm();
    let before = platform.read_model().query(CATALOGUE);
    assert!(before.iter().flatten().flatten().any(|name| name == "sales_by_country"), "{before:?}");

    let platform = platform.set(&["plugins", "directory"], all.path());
    let host = platform.start_host("with");
    platform.publish(&platform.workload(seed(34), 100).records().collect::<Vec<_>>());
    host.group(SALES_BY_COUNTRY);
    platform.assert_sales_are_right();
    assert_eq!(platform.status().unwrap().len(), 1);
    until_refused(&host, malicious.len());
    host.sigterm();
    assert_eq!(platform.read_model().query(CATALOGUE), before);
}
