//! What readers see through their views while generations and versions change under them.

use serde_json::json;

use super::generations::{
    COUNTS, Counts, counts, eventually_done, live_generation, revision, status, until_beside_is_fresh,
};
use crate::harness::{GATES, Gates, ReadModel, Session};

/// A session that is shown by this name, in a transaction that has a snapshot and has read no view yet.
fn with_a_snapshot(it: &Counts, application: &str) -> Session {
    let ReadModel::Postgres { url } = it.platform.read_model() else { unreachable!("it is on Postgres") };
    let mut session = Session::open(&format!("{url}?application_name={application}")).unwrap();
    session.run("begin isolation level repeatable read");
    session.run("select count(*)::text from projector.projection");
    session
}

fn counted(session: &mut Session) -> String {
    session.run("select coalesce(sum(events), 0)::text from counts.seen").remove(0)
}

/// The definition of a view is not a matter of snapshots, and rows are: a snapshot that is older than the rows of a
/// new generation would show an empty table.
#[test]
fn a_promotion_waits_for_readers_whose_snapshot_is_older_than_the_rows_and_names_them() {
    let it = Counts::new("old-snapshot", 1, ReadModel::postgres());
    it.publish("ABA");
    let host = it.platform.start_host("host");
    it.platform.until_through(COUNTS);
    let mut old = with_a_snapshot(&it, "report");
    let pid = old.run("select pg_backend_pid()::text").remove(0);
    it.deploy(&counts("2.0.0", revision(2)));
    until_beside_is_fresh(&it.platform, COUNTS);
    let (code, _, said) = it.platform.command(&["promote", COUNTS]);
    assert_eq!(counted(&mut old), "3", "what a reader with an old snapshot sees; promote ({code}): {said}");
    let said = said.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    let named = format!("session {pid} of the role postgres (\"report\")");
    assert!(code == 1 && said.contains(&named) && said.contains("--ignore-old-snapshots"), "{code}: {said}");
    assert_eq!(live_generation(&it.platform, COUNTS), 1);
    old.run("commit");
    // One that began when the new rows were there is in nobody's way, and sees all of them.
    let mut young = with_a_snapshot(&it, "young");
    eventually_done(&it.platform, &["promote", COUNTS]);
    assert_eq!((live_generation(&it.platform, COUNTS), &*counted(&mut young)), (2, "3"));
    young.run("commit");
    // Whoever must go on says so.
    let mut old = with_a_snapshot(&it, "report");
    it.deploy(&counts("3.0.0", revision(3)));
    until_beside_is_fresh(&it.platform, COUNTS);
    let forced = ["promote", COUNTS, "--ignore-old-snapshots", "--reason", "the report may fail"];
    let promoted = eventually_done(&it.platform, &forced);
    assert_eq!(promoted["generation"], json!(3));
    assert_eq!(counted(&mut old), "0", "this is what was said would happen");
    host.sigterm();
}

/// Whether all events were read is one thing, whether all of them are in the read model another one.
#[test]
fn a_projection_with_dead_and_parked_events_is_fresh_and_not_complete() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("complete", 1, read_model);
        let host = gates.start_host("host");
        gates.publish(&["a1", "a2 if x", "a3", "b1"]);
        gates.until_through();
        let shown = || status(&gates.platform, GATES);
        let seen = shown();
        assert_eq!((&seen["fresh"], &seen["complete"]), (&json!(true), &json!(false)), "{seen:#}");
        assert_eq!(seen["missing_events"], json!(2));
        assert!(seen["oldest_missing_ms"].as_i64().is_some_and(|age| age >= 0), "{seen:#}");
        let (_, _, said) = gates.platform.command(&["status", GATES]);
        let words = "2 events that were read are not in the read model";
        assert!(said.contains("fresh; INCOMPLETE") && said.contains(words), "{said}");
        gates.open(&["x"]);
        gates.until_through();
        gates.platform.ask(&["dlq", "retry", GATES, &gates.only_letter()]);
        let seen = shown();
        assert_eq!((&seen["complete"], &seen["missing_events"]), (&json!(true), &json!(0)), "{seen:#}");
        assert_eq!(seen["oldest_missing_ms"], json!(null));
        assert_eq!(seen["views"], json!([{"schema": "gates", "all_columns": true}]));
        host.sigterm();
    }
}
