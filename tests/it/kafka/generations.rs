//! Additions to tables in use, generations beside the live one, comparing them, and the switch.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use projector_workload::{ORDER_CONFIRMED, Publisher, Record};
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};

use crate::harness::{
    Argument, Guest, Host, Line, ORDER_SEARCH, Platform, Plugins, ReadModel, SALES_BY_COUNTRY, Session,
    assert_closed, describing, descriptor, eventually, seed,
};

pub(super) const COUNTS: &str = "counts";

/// Counts events by the first letter of their payloads; a `B` counts as often as it says.
fn counting(version: &str, of_b: i64, edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut declared: Value = serde_json::from_str(&descriptor(COUNTS)).unwrap();
    declared["version"] = json!(version);
    // What reads nothing may have several lanes.
    declared["lookups"] = json!([]);
    declared["topics"][0]["lookups"] = json!([]);
    edit(&mut declared);
    let mut guest = describing(&declared.to_string());
    let answers: Vec<usize> = (0..26)
        .map(|kind| {
            let events = if kind == 1 { of_b } else { 1 };
            guest.changes(&[(0, &[Argument::Int64(kind), Argument::Int64(events)])])
        })
        .collect();
    guest.answering(&answers).component()
}

pub(super) fn counts(version: &str, edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    counting(version, 1, edit)
}

pub(super) fn revision(number: u32) -> impl FnOnce(&mut Value) {
    move |declared| declared["revision"] = json!(number)
}

/// A column that is declared first, an index of it, and a table.
pub(super) fn with_additions(declared: &mut Value) {
    let seen = &mut declared["tables"][0];
    let note = json!({"name": "note", "type": "text", "nullable": true});
    seen["columns"].as_array_mut().unwrap().insert(0, note);
    seen["indexes"].as_array_mut().unwrap().push(json!({"columns": ["note"]}));
    let extra = json!({"name": "extra", "key": ["id"], "columns": [{"name": "id", "type": "int64"}]});
    declared["tables"].as_array_mut().unwrap().push(extra);
}

pub(super) struct Counts {
    pub(super) platform: Platform,
    plugins: Plugins,
}

impl Counts {
    pub(super) fn new(name: &str, partitions: i32, read_model: ReadModel) -> Counts {
        let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", |_| {}));
        let platform = Platform::new(name, &[], read_model).set(&["plugins", "directory"], plugins.path());
        platform.create_topics(partitions);
        Counts { platform, plugins }
    }

    fn set(self, path: &[&str], value: impl Into<toml::Value>) -> Counts {
        Counts { platform: self.platform.set(path, value), ..self }
    }

    pub(super) fn publish(&self, letters: &str) {
        let topic = self.platform.topic("hostile.events.v1");
        let records = letters.chars().enumerate();
        let records: Vec<Record> =
            records.map(|(at, letter)| Record::new(&*topic, format!("k{at}"), letter.to_string())).collect();
        self.platform.publish(&records);
    }

    /// Publishes on and on.
    fn load(&self) -> Load {
        let topic = self.platform.topic("hostile.events.v1");
        let letters = (0_u32..).map(move |at| {
            let letter = char::from(b'A' + (at % 26) as u8);
            Record::new(&*topic, format!("k{at}"), letter.to_string())
        });
        Load::of(&self.platform, letters)
    }

    pub(super) fn file(&self, bytes: &[u8]) -> String {
        let file = self.platform.directory().join("next.wasm");
        std::fs::write(&file, bytes).unwrap();
        file.display().to_string()
    }

    #[track_caller]
    pub(super) fn deploy(&self, bytes: &[u8]) -> Value {
        self.platform.ask(&["deploy", &self.file(bytes)])
    }

    /// As a copy does it that knows about readers.
    fn replace_file(&self, bytes: &[u8]) {
        let next = self.plugins.directory().join(".next");
        std::fs::write(&next, bytes).unwrap();
        std::fs::rename(next, self.plugins.directory().join("counts.wasm")).unwrap();
    }

    /// What was counted, at a place of readers' or of a generation's own.
    pub(super) fn total_at(&self, schema: &str) -> i64 {
        self.sum_at(schema, "events")
    }

    pub(super) fn sum_at(&self, schema: &str, column: &str) -> i64 {
        let between = self.between();
        let rows = self
            .platform
            .read_model()
            .query(&format!("select cast(coalesce(sum({column}), 0) as text) from {schema}{between}seen"));
        rows[0][0].as_ref().unwrap().parse().unwrap()
    }

    fn between(&self) -> &'static str {
        if matches!(self.platform.read_model(), ReadModel::Postgres { .. }) { "." } else { "__" }
    }

    /// The columns of the view that readers know from the beginning, in their order.
    pub(super) fn columns(&self) -> String {
        self.columns_at("counts")
    }

    /// The columns of readers' view in a schema, or under a prefix.
    pub(super) fn columns_at(&self, schema: &str) -> String {
        let sql = match self.platform.read_model() {
            ReadModel::Postgres { .. } => format!(
                "select column_name::text from information_schema.columns
                 where table_schema = '{schema}' and table_name = 'seen' order by ordinal_position"
            ),
            ReadModel::Sqlite { .. } => {
                format!("select name from pragma_table_info('{schema}__seen') order by cid")
            }
        };
        let columns = self.platform.read_model().query(&sql);
        columns.into_iter().flatten().flatten().collect::<Vec<_>>().join(" ")
    }

    fn last_deployment(&self) -> Value {
        self.platform.ask(&["history", COUNTS])[0].clone()
    }

    #[track_caller]
    fn until_deployed(&self, version: &str) -> Value {
        eventually(&format!("{version} is deployed"), || {
            let last = self.last_deployment();
            if last["version"] == version && last["state"] == "done" { Ok(last) } else { Err(last) }
        })
    }
}

/// The status of a projection, as JSON.
pub(super) fn status(platform: &Platform, projection: &str) -> Value {
    let status = platform.ask(&["status"]);
    let projections = status["projections"].as_array().unwrap();
    projections.iter().find(|one| one["name"] == projection).cloned().unwrap_or_default()
}

pub(super) fn live_generation(platform: &Platform, projection: &str) -> i64 {
    status(platform, projection)["generation"].as_i64().unwrap_or_default()
}

/// Waits until the first generation beside the live one has come to the end of its topics.
#[track_caller]
pub(super) fn until_beside_is_fresh(platform: &Platform, projection: &str) -> Value {
    eventually("the generation beside the live one is fresh", || {
        let beside = status(platform, projection)["beside"][0].clone();
        if beside["fresh"] == true { Ok(beside) } else { Err(beside["lag"].clone()) }
    })
}

/// Asks until it is done: what is asked for may have to wait for a moment.
#[track_caller]
pub(super) fn eventually_done(platform: &Platform, arguments: &[&str]) -> Value {
    eventually(&format!("projector {arguments:?} succeeds"), || {
        match platform.command(&[arguments, &["--output", "json"]].concat()) {
            (0, printed, _) => Ok(printed),
            (_, _, said) => Err(said),
        }
    })
}

/// The command fails, and says this.
#[track_caller]
pub(super) fn assert_refused(platform: &Platform, arguments: &[&str], why: &str) {
    let (code, _, said) = platform.command(arguments);
    // As one line, wherever it was broken.
    let said = said.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    assert!(code != 0 && said.contains(why), "projector {arguments:?} ({code}): {said}");
}

/// Events that are published on threads of their own, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<usize>>,
}

impl Load {
    fn of(platform: &Platform, records: impl Iterator<Item = Record> + Send + 'static) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let records = Arc::new(Mutex::new(records));
        // One goes on while the other one waits for its last acknowledgements.
        let threads = (0..2).map(|_| {
            let (stop, brokers, records) = (stop.clone(), platform.brokers().to_owned(), records.clone());
            thread::spawn(move || {
                let mut published = 0;
                while !stop.load(Ordering::Relaxed) {
                    let some: Vec<Record> = records.lock().unwrap().by_ref().take(500).collect();
                    assert!(!some.is_empty(), "there are too few events for this test");
                    let began = Instant::now();
                    let pace = |index| Ok(began.elapsed().as_millis() >= index as u128);
                    Publisher::new(&brokers).pace(pace).publish(&some).unwrap();
                    published += some.len();
                }
                published
            })
        });
        Load { threads: threads.collect(), stop }
    }

    /// How many were published.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

/// Sessions that read a view again and again, each with one prepared statement. What they see in `events`
/// must never become less, in any of them.
struct Readers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<usize, String>>>,
}

impl Readers {
    fn of(read_model: &ReadModel, sql: &'static str) -> Readers {
        let ReadModel::Postgres { url } = read_model else { unreachable!("it is on Postgres") };
        let (stop, floor) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(1)));
        let threads = (0..3).map(|_| {
            let (stop, floor, url) = (stop.clone(), floor.clone(), url.clone());
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let mut session = PgConnection::connect(&url).await.unwrap();
                    let mut reads = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let least = floor.load(Ordering::SeqCst);
                        let rows = sqlx::query(sql).persistent(true).fetch_all(&mut session).await;
                        let rows = rows.map_err(|error| format!("after {reads} reads: {error}"))?;
                        let seen: i64 = rows.iter().map(|row| row.get::<i64, _>("events")).sum();
                        if seen < least {
                            return Err(format!("after {reads} reads: {seen}, and {least} were seen before"));
                        }
                        floor.fetch_max(seen, Ordering::SeqCst);
                        reads += 1;
                    }
                    Ok(reads)
                })
            })
        });
        Readers { threads: threads.collect(), stop }
    }

    /// Each of them read, and none saw a step back or an error.
    #[track_caller]
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let reads = thread.join().unwrap().unwrap_or_else(|wrong| panic!("a reader: {wrong}"));
            assert!(reads > 100, "{reads} reads prove little");
        }
    }
}

#[test]
fn additions_are_made_in_place_and_new_columns_are_seen_in_views_of_their_own() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let it = Counts::new("additions", 2, read_model);
        it.publish("ABA");
        let host = it.platform.start_host("host");
        it.platform.until_through(COUNTS);
        let planned = it.platform.ask(&["plan", &it.file(&counts("2.0.0", with_additions))]);
        assert_eq!(planned["change"], "in-place");
        assert_eq!(planned["steps"].as_array().unwrap().len(), 3, "{planned:#}");
        it.deploy(&counts("2.0.0", with_additions));
        let verdict = it.last_deployment()["verdict"].as_str().unwrap().to_owned();
        for step in ["add the column seen.note", "index of seen on note", "create the table extra"] {
            assert!(verdict.contains(step), "{verdict}");
        }
        assert_eq!((&*it.columns(), &*it.columns_at("counts_v2")), ("kind events", "kind events note"));
        it.publish("AB");
        assert_closed(&it.platform.until_through(COUNTS), 5, 0, 0);
        assert_eq!((it.total_at("counts"), it.total_at("counts_v2")), (5, 5));
        // Built anew, the tables have the columns as they are declared, and readers as they know them.
        it.platform.ask(&["rebuild", COUNTS]);
        until_beside_is_fresh(&it.platform, COUNTS);
        let promoted = eventually_done(&it.platform, &["promote", COUNTS]);
        assert_eq!((&promoted["readers"], &promoted["replaced"]), (&json!("counts_v2"), &json!(true)));
        assert_eq!(promoted["moved"], json!(["counts", "counts_v2"]));
        assert_eq!((&*it.columns(), &*it.columns_at("counts_v2")), ("kind events", "kind events note"));
        assert_eq!((it.total_at("counts"), it.total_at("counts_v2")), (5, 5));
        it.deploy(&counts("3.0.0", |declared| {
            with_additions(declared);
            let last = json!({"name": "last", "type": "int64", "nullable": true});
            declared["tables"][0]["columns"].as_array_mut().unwrap().insert(1, last);
        }));
        assert_eq!(it.columns_at("counts_v2"), "kind events note");
        assert_eq!(it.columns_at("counts_v3"), "note kind events last");
        let shown = status(&it.platform, COUNTS)["views"].clone();
        let shown: Vec<_> = shown.as_array().unwrap().iter().map(|views| views.to_string()).collect();
        assert_eq!(
            shown,
            [
                r#"{"all_columns":false,"schema":"counts"}"#,
                r#"{"all_columns":false,"schema":"counts_v2"}"#,
                r#"{"all_columns":true,"schema":"counts_v3"}"#
            ]
        );
        it.publish("A");
        let through = it.platform.until_through(COUNTS);
        assert_eq!((through.generation, &*through.version, it.total_at("counts")), (2, "3.0.0", 6));
        host.sigterm();
    }
}

#[test]
fn a_host_that_was_stopped_in_its_transaction_goes_on_with_the_version_that_came_meanwhile() {
    let it = Counts::new("stopped-meanwhile", 2, ReadModel::postgres())
        .set(&["store", "idle-in-transaction-timeout"], "2s");
    it.publish("A");
    let old = it.platform.start_host_with("old", "before-commit=stop@2");
    it.platform.until_through(COUNTS);
    it.publish("B");
    old.until_stopped_at("before-commit");
    it.deploy(&counts("2.0.0", with_additions));
    assert_eq!(it.columns_at("counts_v2"), "kind events note");
    let new = it.platform.start_host("new");
    it.publish("AB");
    let through = it.platform.until_through(COUNTS);
    assert_closed(&through, 4, 0, 0);
    assert_eq!(through.version, "2.0.0");
    old.cont();
    let active = through.digest;
    old.log().wait_for("that it goes over", |line| {
        line.message() == "projection runs" && line.field("digest") == active
    });
    new.sigterm();
    it.publish("AB");
    assert_closed(&it.platform.until_through(COUNTS), 6, 0, 0);
    assert_eq!(it.total_at("counts"), 6);
    old.sigterm();
}

#[test]
fn a_host_that_dies_between_additions_leaves_the_rest_to_the_next_which_mends_a_broken_index() {
    let it = Counts::new("dies-between", 2, ReadModel::postgres());
    it.publish("ABA");
    let host = it.platform.start_host_with("victim", "after-step=kill@2");
    it.platform.until_through(COUNTS);
    it.replace_file(&counts("2.0.0", with_additions));
    host.until_killed_at("after-step");
    assert_eq!(it.columns_at("counts_v2"), "", "nothing is shown before all is there");
    let index = "select i.indexrelid::text, i.indisvalid::text from pg_index i
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
                 where i.indrelid = 'counts_g1.seen'::regclass and a.attname = 'note'";
    let broken = it.platform.read_model().query(index);
    it.platform.read_model().query(&format!(
        "update pg_index set indisvalid = false where indexrelid = {} returning 'done'",
        broken[0][0].as_ref().unwrap()
    ));
    it.publish("A");
    let next = it.platform.start_host("next");
    it.until_deployed("2.0.0");
    let mended = it.platform.read_model().query(index);
    assert_eq!((mended.len(), mended[0][1].as_deref()), (1, Some("true")));
    assert_ne!(mended[0][0], broken[0][0], "the broken index is there still");
    assert_eq!(it.columns_at("counts_v2"), "kind events note");
    assert_closed(&it.platform.until_through(COUNTS), 4, 0, 0);
    next.sigterm();
}

#[test]
fn a_lock_on_the_table_keeps_an_addition_waiting_and_not_the_flow() {
    let it =
        Counts::new("locked-addition", 2, ReadModel::postgres()).set(&["store", "lock-timeout"], "500ms");
    it.publish("ABA");
    let host = it.platform.start_host("host");
    it.platform.until_through(COUNTS);
    let ReadModel::Postgres { url } = it.platform.read_model() else { unreachable!("it is on Postgres") };
    let mut reader = Session::open(url).unwrap();
    reader.run("begin");
    reader.run("select count(*)::text from counts.seen");
    let session = reader.run("select pg_backend_pid()::text").remove(0);
    it.replace_file(&counts("2.0.0", with_additions));
    host.log().wait_for("who is in its way", |line| {
        line.field("error").contains(&format!("a deployment could not be carried out: session {session} of"))
    });
    it.publish("AB");
    assert_closed(&it.platform.until_through(COUNTS), 5, 0, 0);
    assert_eq!(it.last_deployment()["state"], "open");
    assert_eq!(it.columns_at("counts_v2"), "");
    drop(reader);
    it.until_deployed("2.0.0");
    assert_eq!(it.columns_at("counts_v2"), "kind events note");
    it.publish("A");
    assert_closed(&it.platform.until_through(COUNTS), 6, 0, 0);
    host.sigterm();
}

/// Whoever has read the views and keeps the transaction open is named, and the others are not kept waiting.
#[test]
fn a_reader_in_the_way_of_a_promotion_is_named_and_keeps_no_other_reader_waiting() {
    let it = Counts::new("in-the-way", 1, ReadModel::postgres());
    it.publish("ABA");
    let host = it.platform.start_host("host");
    it.platform.until_through(COUNTS);
    it.deploy(&counts("2.0.0", revision(2)));
    until_beside_is_fresh(&it.platform, COUNTS);
    let ReadModel::Postgres { url } = it.platform.read_model() else { unreachable!("it is on Postgres") };
    let mut reader = Session::open(&format!("{url}?application_name=somebody")).unwrap();
    reader.run("begin");
    reader.run("select count(*)::text from counts.seen");
    let session = reader.run("select pg_backend_pid()::text").remove(0);
    let mut other = Session::open(url).unwrap();
    std::thread::scope(|scope| {
        let promoting = scope.spawn(|| it.platform.command(&["promote", COUNTS]));
        let mut longest = std::time::Duration::ZERO;
        while !promoting.is_finished() {
            let began = Instant::now();
            other.run("select count(*)::text from counts.seen");
            longest = longest.max(began.elapsed());
        }
        let (code, _, said) = promoting.join().unwrap();
        let named = format!("session {session} of the role postgres (\"somebody\") has a lock");
        let said = said.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(code == 1 && said.contains(&named), "{code}: {said}");
        assert!(longest.as_millis() < 1_500, "a reader waited for {longest:?}");
    });
    assert_eq!(live_generation(&it.platform, COUNTS), 1);
    it.publish("A");
    it.platform.until_through(COUNTS);
    drop(reader);
    eventually_done(&it.platform, &["promote", COUNTS]);
    assert_eq!(live_generation(&it.platform, COUNTS), 2);
    host.sigterm();
}

#[test]
fn whatever_makes_rows_other_ones_is_built_beside_the_live_generation_which_stays_right() {
    let it = Counts::new("beside", 2, ReadModel::postgres())
        .set(&["batch", "events"], 50)
        .set(&["deploy", "rebuild-share"], 0.2);
    it.publish(&"ABCD".repeat(1_000));
    let host = it.platform.start_host("host");
    it.platform.until_through(COUNTS);
    type Edit = fn(&mut Value);
    let other: [(Edit, &str); 5] = [
        (|declared| declared["revision"] = json!(2), "its revision is 2, and was 1"),
        (
            |declared| {
                let gate = json!({"name": "gate.v1", "statements": ["count"]});
                declared["topics"].as_array_mut().unwrap().push(gate);
            },
            "its topics are gate.v1, hostile.events.v1, and were hostile.events.v1",
        ),
        (
            |declared| {
                let new = json!({"name": "new", "type": "int64"});
                declared["tables"][0]["columns"].as_array_mut().unwrap().push(new);
                let set = json!({"column": "new"});
                declared["statements"][0]["set"].as_array_mut().unwrap().push(set);
            },
            "seen.new is new, and may not be null",
        ),
        (|declared| *declared = renamed(declared), "it has no column seen.events any more"),
        (
            |declared| declared["tables"][0]["lineage"] = json!(true),
            "it changes whether the rows of seen have lineage",
        ),
    ];
    for (edit, reason) in other {
        let planned = it.platform.ask(&["plan", &it.file(&counts("2.0.0", edit))]);
        assert_eq!(planned["change"], "anew", "{planned:#}");
        assert!(planned["reasons"].to_string().contains(reason), "{planned:#}");
        assert_eq!(planned["replay"]["events"], 4_000);
    }
    it.deploy(&counts("2.0.0", revision(2)));
    let verdict = it.last_deployment()["verdict"].to_string();
    assert!(verdict.contains("generation 2: its revision is 2, and was 1"), "{verdict}");
    let building = eventually("it is being built", || {
        let beside = status(&it.platform, COUNTS)["beside"][0].clone();
        let rate = beside["building"]["events_per_second"].as_f64().unwrap_or_default();
        if rate > 0.0 && beside["fresh"] == false { Ok(beside) } else { Err(beside) }
    });
    assert_eq!((&building["role"], &building["generation"]), (&json!("building"), &json!(2)));
    assert!(building["building"]["remaining_seconds"].as_f64().unwrap() > 0.0, "{building:#}");
    // The live one is not kept waiting.
    it.publish("ABCD");
    let live = it.platform.until_through(COUNTS);
    assert_closed(&live, 4_004, 0, 0);
    assert_eq!((live.generation, &*live.version), (1, "1.0.0"));
    assert!(!live.beside[0].fresh, "what was built was through too soon to prove anything");
    // One that is given up for another.
    it.platform.ask(&["rebuild", COUNTS]);
    let beside = status(&it.platform, COUNTS)["beside"].clone();
    assert_eq!(beside.as_array().unwrap().len(), 1, "{beside:#}");
    assert_eq!((&beside[0]["generation"], &beside[0]["version"]), (&json!(3), &json!("1.0.0")));
    eventually("the other one is built", || {
        let read = status(&it.platform, COUNTS)["beside"][0]["counters"]["read"].as_i64().unwrap();
        if read > 0 { Ok(()) } else { Err(read) }
    });
    let schemas = it.platform.read_model().query(
        "select schema_name::text from information_schema.schemata where schema_name like 'counts%' order by 1",
    );
    let schemas: Vec<_> = schemas.into_iter().flatten().flatten().collect();
    assert_eq!(schemas, ["counts", "counts_g1", "counts_g3"]);
    host.sigterm();
}

/// `events` under another name.
fn renamed(declared: &Value) -> Value {
    serde_json::from_str(&declared.to_string().replace("\"events\"", "\"number\"")).unwrap()
}

#[test]
fn generations_are_compared_at_one_vector_while_events_flow_in() {
    let platform = Platform::new("compared", &[SALES_BY_COUNTRY], ReadModel::postgres());
    platform.create_topics(3);
    let mut records = platform.workload(seed(4_101), 40_000).records();
    platform.publish(&records.by_ref().take(3_000).collect::<Vec<_>>());
    let records: Vec<Record> = records.collect();
    let host = platform.start_host("host");
    platform.until_fresh();
    platform.ask(&["rebuild", SALES_BY_COUNTRY]);
    until_beside_is_fresh(&platform, SALES_BY_COUNTRY);
    let load = Load::of(&platform, records.into_iter());
    until_both_go_on(&platform);
    for _ in 0..3 {
        let began = Instant::now();
        let diff = platform.ask(&["diff", SALES_BY_COUNTRY]);
        println!("compared in {:?}", began.elapsed());
        let table = &diff["tables"][0];
        assert!(
            table["rows_old"].as_i64().unwrap() > 0 && table["rows_old"] == table["rows_new"],
            "{diff:#}"
        );
        until_both_go_on(&platform);
    }
    // Whoever compares and dies holds nobody for long.
    platform.command_killed_at("held", &["diff", SALES_BY_COUNTRY]);
    let held = "select extract(epoch from hold_until - now())::float8::text from projector.generation
                where hold_until is not null";
    let left = platform.read_model().query(held).into_iter().flatten().flatten();
    let left: Vec<f64> = left.map(|left| left.parse().unwrap()).collect();
    assert!(left.len() == 2 && left.iter().all(|left| *left <= 1.0), "{left:?}");
    until_both_go_on(&platform);
    println!("{} events", load.end());
    platform.assert_sales_are_right();
    until_beside_is_fresh(&platform, SALES_BY_COUNTRY);
    platform.ask(&["diff", SALES_BY_COUNTRY]);
    // And what it was compared with is right as well.
    platform.ask(&["promote", SALES_BY_COUNTRY]);
    assert_eq!(live_generation(&platform, SALES_BY_COUNTRY), 2);
    platform.assert_sales_are_right();
    host.sigterm();
}

/// Waits until both generations have read a hundred events more.
#[track_caller]
fn until_both_go_on(platform: &Platform) {
    let offsets = || -> Vec<i64> {
        let sums = platform.read_model().query(
            "select sum(next_offset)::text from projector.checkpoint group by generation_id order by generation_id",
        );
        sums.into_iter().flatten().flatten().map(|sum| sum.parse().unwrap()).collect()
    };
    let before = offsets();
    eventually("both generations go on", || {
        let now = offsets();
        if now.iter().zip(&before).all(|(now, before)| *now >= before + 100) { Ok(()) } else { Err(now) }
    });
}

#[test]
fn a_difference_is_shown_keeps_a_promotion_off_and_can_be_expected() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let it = Counts::new("differs", 2, read_model);
        it.publish("ABCABB");
        let host = it.platform.start_host("host");
        it.platform.until_through(COUNTS);
        it.deploy(&counting("2.0.0", 2, revision(2)));
        until_beside_is_fresh(&it.platform, COUNTS);
        let (code, diff, said) = it.platform.command(&["diff", COUNTS, "--output", "json"]);
        assert_eq!(code, 1, "{said}");
        let table = &diff["tables"][0];
        assert_eq!((&table["differ"], &table["by_column"]), (&json!(1), &json!({"events": 1})), "{said}");
        let sample = json!({"key": {"kind": 1}, "kind": "differs", "columns": {"events": [3, 6]}});
        assert_eq!(table["samples"], json!([sample]));
        it.platform.ask(&["diff", COUNTS, "--expect", "seen.events"]);
        it.platform.ask(&["diff", COUNTS, "--expect", "seen"]);
        assert_refused(
            &it.platform,
            &["diff", COUNTS, "--expect", "seen.evants"],
            "did you mean `seen.events`",
        );
        assert_refused(&it.platform, &["promote", COUNTS], "differs from the live one");
        assert_refused(&it.platform, &["promote", COUNTS, "--force"], "--reason");
        assert_eq!(it.total_at("counts"), 6);
        it.platform.ask(&["promote", COUNTS, "--force", "--reason", "B counts twice now"]);
        assert_eq!(it.total_at("counts"), 9);
        let last = it.last_deployment();
        assert_eq!((&last["action"], &last["reason"]), (&json!("promote"), &json!("B counts twice now")));
        it.publish("B");
        let through = it.platform.until_through(COUNTS);
        assert_eq!((through.generation, it.total_at("counts")), (2, 11));
        host.sigterm();
    }
}

#[test]
fn readers_see_no_step_back_through_rebuild_promotion_and_rollback_under_load() {
    let it = Counts::new("no-step-back", 4, ReadModel::postgres())
        .set(&["lanes"], 4)
        .set(&["batch", "events"], 100)
        .set(&["deploy", "rebuild-share"], 1.0);
    it.publish("ABCDE");
    let host = it.platform.start_host("host");
    it.platform.until_through(COUNTS);
    let (load, readers) =
        (it.load(), Readers::of(it.platform.read_model(), "select * from counts.seen where kind >= 0"));
    let until_read_on = || {
        let before = it.total_at("counts");
        eventually("readers see more", || match it.total_at("counts") {
            now if now >= before + 200 => Ok(()),
            now => Err(now),
        });
    };
    until_read_on();
    it.platform.ask(&["rebuild", COUNTS]);
    let promoted = eventually_done(&it.platform, &["promote", COUNTS]);
    println!("promoted: {promoted}");
    assert_eq!((&promoted["generation"], &promoted["replaced"]), (&json!(2), &json!(true)));
    until_read_on();
    assert_eq!(live_generation(&it.platform, COUNTS), 2);
    let rolled_back = it.platform.ask(&["rollback", COUNTS]);
    assert_eq!(rolled_back["deployment"]["generation"], 1, "{rolled_back:#}");
    until_read_on();
    assert_eq!(live_generation(&it.platform, COUNTS), 1);
    println!("promoted again: {}", it.platform.ask(&["promote", COUNTS]));
    until_read_on();
    let published = load.end() + 5;
    println!("{published} events");
    assert_closed(&it.platform.until_through(COUNTS), published, 0, 0);
    until_beside_is_fresh(&it.platform, COUNTS);
    readers.end();
    for schema in ["counts", "counts_g1", "counts_g2"] {
        assert_eq!(it.total_at(schema), published as i64, "{schema}");
    }
    host.sigterm();
}

#[test]
fn another_list_of_columns_is_served_beside_the_old_one_until_that_is_retired() {
    let it = Counts::new("other-columns", 2, ReadModel::postgres())
        .set(&["batch", "events"], 10)
        .set(&["deploy", "rebuild-share"], 0.01);
    it.publish(&"AB".repeat(1_000));
    let host = it.platform.start_host("host");
    it.platform.until_through(COUNTS);
    it.deploy(&counts("2.0.0", |declared| *declared = renamed(declared)));
    let promote = ["promote", COUNTS];
    let forced = ["promote", COUNTS, "--force", "--reason", "in a hurry"];
    assert_refused(&it.platform, &promote, "has not come to the end of its topics yet");
    // Nothing makes readers see a step back.
    assert_refused(&it.platform, &forced, "readers would see a step back");
    host.sigterm();
    let it = it.set(&["deploy", "rebuild-share"], 1.0);
    let host = it.platform.start_host("unhurried");
    until_beside_is_fresh(&it.platform, COUNTS);
    eventually("it is known to be caught up", || {
        let known = "select caught_up_at is not null from projector.generation where number = 2";
        let known = it.platform.read_model().query(&format!("select ({known})::text"));
        if known[0][0].as_deref() == Some("true") { Ok(()) } else { Err(known) }
    });
    // Whoever dies in the middle of it changes nothing.
    it.platform.command_killed_at("before-promote", &promote);
    assert_eq!((live_generation(&it.platform, COUNTS), it.columns().as_str()), (1, "kind events"));
    it.publish("AB");
    assert_closed(&it.platform.until_through(COUNTS), 2_002, 0, 0);
    let promoted = eventually_done(&it.platform, &promote);
    assert_eq!((&promoted["readers"], &promoted["replaced"]), (&json!("counts_v2"), &json!(false)));
    it.publish("AB");
    let through = it.platform.until_through(COUNTS);
    until_beside_is_fresh(&it.platform, COUNTS);
    assert_eq!((through.generation, &*through.beside[0].role), (2, "warm"));
    assert_eq!((it.total_at("counts"), it.sum_at("counts_v2", "number")), (2_004, 2_004));
    // The same switch back, and forth.
    it.platform.ask(&["rollback", COUNTS]);
    assert_eq!(live_generation(&it.platform, COUNTS), 1);
    it.platform.ask(&["rollback", COUNTS]);
    assert_eq!(live_generation(&it.platform, COUNTS), 2);
    it.platform.ask(&["retire", COUNTS, "--reason", "nobody reads it"]);
    it.publish("A");
    it.platform.until_through(COUNTS);
    assert_eq!(it.sum_at("counts_v2", "number"), 2_005);
    let schemas = it.platform.read_model().query(
        "select schema_name::text from information_schema.schemata where schema_name like 'counts%' order by 1",
    );
    let schemas: Vec<_> = schemas.into_iter().flatten().flatten().collect();
    assert_eq!(schemas, ["counts_g2", "counts_v2"]);
    host.sigterm();
}

/// Writes one column from two topics: which of them was last shows.
fn last() -> Vec<u8> {
    let mut declared: Value = serde_json::from_str(&descriptor("last")).unwrap();
    let topics = ["hostile.events.v1", ORDER_CONFIRMED];
    declared["topics"] = topics.iter().map(|topic| json!({"name": topic, "statements": ["count"]})).collect();
    declared["statements"][0]["set"] = json!([{"column": "events"}]);
    declared["lookups"] = json!([]);
    let mut guest = Guest::describing(&declared.to_string());
    let answer = guest.changes(&[(0, &[Argument::Int64(1), Argument::Int64(1)])]);
    guest.project(&format!("(i32.const {answer})")).component()
}

/// One of the hosts says so: a generation that is built is tried by the host that builds it.
#[track_caller]
fn until_not_promoted(hosts: &[&Host], projection: &str, why: &str) {
    let says_it = |line: &Line| {
        line.message().starts_with("not promoted")
            && line.field("projection") == projection
            && line.field("reason").contains(why)
    };
    eventually(&format!("{projection} is not promoted"), || {
        let said = hosts.iter().any(|host| host.log().lines().iter().any(says_it));
        if said { Ok(()) } else { Err("no host says so") }
    });
}

#[track_caller]
fn until_live(platform: &Platform, generation: i64) {
    eventually(&format!("generation {generation} is live"), || match live_generation(platform, COUNTS) {
        live if live == generation => Ok(()),
        other => Err(other),
    });
}

#[test]
fn a_generation_is_promoted_by_itself_when_fresh_or_when_equal() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let it = Counts::new("by-itself", 2, read_model).set(&["deploy", "promote"], "when-fresh");
        std::fs::write(it.plugins.directory().join("last.wasm"), last()).unwrap();
        it.publish("ABC");
        let host = it.platform.start_host("when-fresh");
        it.platform.until_through(COUNTS);
        it.platform.until_through("last");
        it.deploy(&counting("2.0.0", 2, revision(2)));
        until_live(&it.platform, 2);
        assert_eq!(it.total_at("counts"), 4);
        assert_eq!(it.last_deployment()["asked_by"], "the host");
        host.sigterm();

        let it = it.set(&["deploy", "promote"], "when-equal");
        let host = it.platform.start_host("when-equal");
        // Several hosts may try it at once.
        let postgres = matches!(it.platform.read_model(), ReadModel::Postgres { .. });
        let another = postgres.then(|| it.platform.start_host("another"));
        it.platform.ask(&["rebuild", "last"]);
        it.deploy(&counting("3.0.0", 3, revision(3)));
        let hosts: Vec<&Host> = [&host].into_iter().chain(&another).collect();
        until_not_promoted(&hosts, COUNTS, "differs from the live one");
        until_not_promoted(&hosts, "last", "depend on the order between partitions");
        it.deploy(&counting("4.0.0", 2, revision(4)));
        until_live(&it.platform, 4);
        assert_eq!((it.total_at("counts"), live_generation(&it.platform, "last")), (4, 1));
        let promotions = it.platform.ask(&["history", COUNTS]);
        let promotions = promotions.as_array().unwrap().iter();
        assert_eq!(promotions.filter(|one| one["action"] == "promote").count(), 2);
        host.sigterm();
        if let Some(another) = another {
            another.sigterm();
        }
    }
}

#[test]
fn a_rebuild_goes_on_where_its_host_was_killed() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let it = Counts::new("killed-rebuild", 2, read_model).set(&["batch", "events"], 50);
        it.publish(&"ABCD".repeat(500));
        let host = it.platform.start_host("first");
        it.platform.until_through(COUNTS);
        host.sigterm();
        let victim = it.platform.start_host_with("victim", "counts:before-commit=kill@12");
        it.platform.ask(&["rebuild", COUNTS]);
        victim.until_killed_at("before-commit");
        let beside = status(&it.platform, COUNTS)["beside"][0].clone();
        let read = beside["counters"]["read"].as_i64().unwrap();
        assert!(read > 0 && read < 2_000, "{read}");
        it.publish("A");
        let survivor = it.platform.start_host("survivor");
        let beside = until_beside_is_fresh(&it.platform, COUNTS);
        assert_eq!(beside["counters"]["applied"], 2_001);
        assert_closed(&it.platform.until_through(COUNTS), 2_001, 0, 0);
        it.platform.ask(&["diff", COUNTS]);
        assert_eq!(it.total_at("counts_g2"), 2_001);
        survivor.sigterm();
    }
}

/// Whoever wants a generation for itself (to pause, hold, promote or switch it) waits for the transactions in
/// flight, and not for those that come.
#[test]
fn busy_lanes_do_not_keep_an_operator_waiting() {
    let it = Counts::new("busy-lanes", 8, ReadModel::postgres())
        .set(&["lanes"], 8)
        .set(&["store", "connections"], 20)
        .set(&["batch", "events"], 20);
    let host = it.platform.start_host("host");
    it.platform.until_shared_by(&host.group(COUNTS), 8);
    it.publish(&"ABCDE".repeat(12_000));
    eventually("it is busy", || match it.total_at("counts") {
        now if now >= 1_000 => Ok(()),
        now => Err(now),
    });
    let began = Instant::now();
    it.platform.ask(&["pause", COUNTS, "--reason", "to see how long it takes"]);
    let lag = it.platform.status().unwrap()[COUNTS].lag;
    println!("paused within {:?}; {lag} events were left", began.elapsed());
    assert!(lag > 0, "it was paused when there was nothing left to do");
    it.platform.ask(&["resume", COUNTS]);
    assert_closed(&it.platform.until_through(COUNTS), 60_000, 0, 0);
    host.sigterm();
}

/// What a rebuild costs the live generation, which is behind by so many events. Printed, and not asserted:
/// it is the machine's word.
#[test]
fn a_rebuild_leaves_the_live_generation_its_pace() {
    let mut platform = Platform::new("pace", &[SALES_BY_COUNTRY], ReadModel::postgres());
    platform.create_topics(4);
    let topic = platform.topic(ORDER_CONFIRMED);
    let orders: Vec<Record> =
        platform.workload(seed(4_102), 40_000).records().filter(|record| record.topic == topic).collect();
    let mut published = 0;
    let mut pace = |platform: &Platform| {
        for _ in 0..4 {
            platform.publish(&orders);
            published += orders.len() as i64;
        }
        let read = || platform.read_model().checkpoints(SALES_BY_COUNTRY).values().sum::<i64>();
        let before = read();
        let host = platform.start_host("pace");
        let first = eventually("it reads", || match read() {
            now if now > before => Ok(now),
            now => Err(now),
        });
        let began = Instant::now();
        eventually("the live generation is through", || match read() {
            now if now == published => Ok(()),
            now => Err(now),
        });
        let rate = (published - first) as f64 / began.elapsed().as_secs_f64();
        let left = status(platform, SALES_BY_COUNTRY)["beside"][0]["lag"].clone();
        host.sigterm();
        (rate, left)
    };
    let host = platform.start_host("first");
    platform.until_fresh();
    host.sigterm();
    pace(&platform);
    let (alone, _) = pace(&platform);
    println!("live alone: {alone:.0} events/s");
    for share in [0.5, 0.1] {
        platform = platform.set(&["deploy", "rebuild-share"], share);
        platform.ask(&["rebuild", SALES_BY_COUNTRY]);
        let (beside, left) = pace(&platform);
        println!(
            "beside a rebuild of share {share}: {beside:.0} events/s ({:.2}); left to the rebuild: {left}",
            beside / alone
        );
        platform.ask(&["retire", SALES_BY_COUNTRY]);
    }
    let (again, _) = pace(&platform);
    println!("live alone again: {again:.0} events/s ({:.2})", again / alone);
    let host = platform.start_host("end");
    platform.assert_sales_are_right();
    host.sigterm();
}

/// The example that everything is tried on: a copy of customers, reads, and a write by a column that is not
/// the key.
#[test]
fn order_search_is_built_anew_compared_promoted_and_rolled_back() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let platform = Platform::new("orders-anew", &[ORDER_SEARCH], read_model);
        platform.create_topics(2);
        let records: Vec<Record> = platform.workload(seed(4_102), 3_000).records().collect();
        let (before, after) = records.split_at(2_000);
        platform.publish(before);
        let host = platform.start_host("host");
        platform.until_fresh();
        platform.ask(&["rebuild", ORDER_SEARCH]);
        platform.publish(after);
        until_beside_is_fresh(&platform, ORDER_SEARCH);
        let diff = platform.ask(&["diff", ORDER_SEARCH]);
        assert_eq!(diff["tables"].as_array().unwrap().len(), 2, "{diff:#}");
        platform.ask(&["promote", ORDER_SEARCH]);
        assert_eq!(live_generation(&platform, ORDER_SEARCH), 2);
        platform.assert_orders_are_right();
        platform.ask(&["rollback", ORDER_SEARCH]);
        assert_eq!(live_generation(&platform, ORDER_SEARCH), 1);
        platform.assert_orders_are_right();
        host.sigterm();
    }
}

#[test]
fn plan_and_promote_say_what_readers_must_do_and_retire_removes_nothing_of_theirs() {
    let it = Counts::new("readers", 1, ReadModel::postgres());
    it.publish("AB");
    let host = it.platform.start_host("host");
    it.platform.until_through(COUNTS);
    let ReadModel::Postgres { url } = it.platform.read_model() else { unreachable!("it is on Postgres") };
    let mut hand = Session::open(url).unwrap();
    let role = format!("reader_{}", uuid::Uuid::new_v4().simple());
    for statement in [
        &*format!("create role {role}"),
        &*format!("grant usage on schema counts to {role}"),
        &*format!("grant select on counts.seen to {role}"),
        "create view report as select kind from counts.seen",
    ] {
        hand.run(statement);
    }
    let next = counts("2.0.0", |declared| *declared = renamed(declared));
    let planned = it.platform.ask(&["plan", &it.file(&next)]);
    let told = &planned["move_readers"];
    assert_eq!(told["changes"], json!(["the column seen.events is gone", "the column seen.number is new"]));
    assert_eq!(told["must_move"], json!(true));
    assert_eq!(told["grants"], json!([format!("select on counts.seen to {role}")]));
    assert_eq!(told["dependants"], json!(["view public.report"]));
    let (_, _, said) = it.platform.command(&["plan", &it.file(&next)]);
    assert!(said.contains("readers of counts must change") && said.contains(&role), "{said}");
    it.deploy(&next);
    until_beside_is_fresh(&it.platform, COUNTS);
    let compared = it.platform.ask(&["diff", COUNTS, "--expect", "seen"]);
    assert_eq!(compared["move_readers"], *told, "a comparison says the same");
    let promoted =
        eventually_done(&it.platform, &["promote", COUNTS, "--force", "--reason", "another column"]);
    assert_eq!(
        (&promoted["readers"], &promoted["move_readers"]["dependants"]),
        (&json!("counts_v2"), &told["dependants"])
    );
    let may_read = format!("select has_table_privilege('{role}', 'counts_v2.seen', 'select')::text");
    assert_eq!(hand.run(&may_read), ["true"], "the new views have the rights of the old ones");
    assert_refused(&it.platform, &["retire", COUNTS], "view public.report");
    assert_eq!(it.total_at("counts"), 2, "nothing is removed");
    hand.run("drop view report");
    it.platform.ask(&["retire", COUNTS]);
    host.sigterm();
}

/// A new SQLite file is not there before a host makes it.
#[test]
fn a_plan_for_a_store_that_does_not_exist_yet_is_that_of_a_new_projection() {
    let it = Counts::new("no-store", 1, ReadModel::sqlite());
    it.publish("AB");
    let planned = it.platform.ask(&["plan", &it.file(&counts("1.0.0", |_| {}))]);
    assert_eq!((&planned["change"], &planned["store_is_new"]), (&json!("first"), &json!(true)));
    assert_eq!(planned["replay"]["events"], 2);
    assert_eq!(it.platform.ask(&["status"])["projections"], json!([]));
}
