//! A statement that always runs longer than any may is the fault of the event that asks for it, and stops
//! nothing else.

use projector_workload::Record;
use serde_json::json;

use crate::harness::{Platform, Plugins, ReadModel, Session, assert_closed, dead_letters, rows};

#[test]
fn an_event_whose_statement_always_runs_too_long_is_a_dead_letter() {
    let plugins = Plugins::new(&["hostile-guest"]);
    let platform = Platform::new("too-slow", &[], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path())
        .set(&["store", "statement-timeout"], "1s");
    platform.create_topics(1);
    let topic = platform.topic("hostile.events.v1");
    let write = |id: &str| Record::new(&*topic, id, json!({"do": "write", "id": id}).to_string());
    platform.publish(&[write("first")]);
    let host = platform.start_host("host");
    platform.until_through("hostile");

    let ReadModel::Postgres { url } = platform.read_model() else { unreachable!("it is on Postgres") };
    let mut hand = Session::open(url).unwrap();
    hand.run(
        "create function dawdle() returns trigger language plpgsql as
           $$ begin perform pg_sleep(30); return new; end $$",
    );
    hand.run(
        "create trigger dawdle before insert on hostile_g1.survivor
           for each row when (new.id = 'slow') execute function public.dawdle()",
    );
    platform.publish(&["a", "b", "slow", "c", "d"].map(write));
    assert_closed(&platform.until_through("hostile"), 6, 0, 1);
    let letters = dead_letters(platform.read_model(), "hostile");
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((&*letter.verdict(), letter.offset), ("too-slow (statement-timeout)", 3));
    assert!(letter.detail.contains("57014"), "{}", letter.detail);
    let ids = || {
        let rows = rows(platform.read_model(), "hostile", "survivor", &["id"]);
        rows.into_iter().flatten().flatten().collect::<Vec<_>>()
    };
    assert_eq!(ids(), ["a", "b", "c", "d", "first"]);

    // Tried again at an operator's request it fails again, and keeps nothing else waiting.
    let retry = ["dlq", "retry", "hostile", "--all"];
    let (code, _, said) = platform.command(&retry);
    assert!(code == 1 && said.contains("statement-timeout"), "{code}: {said}");
    platform.publish(&[write("e")]);
    assert_closed(&platform.until_through("hostile"), 7, 0, 1);
    hand.run("drop trigger dawdle on hostile_g1.survivor");
    platform.ask(&retry);
    assert_eq!(ids(), ["a", "b", "c", "d", "e", "first", "slow"]);
    assert_closed(&platform.until_through("hostile"), 7, 0, 0);
    host.sigterm();
}
