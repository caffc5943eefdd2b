//! How long the live generation is held, whatever is compared or promoted: never for longer than a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use projector_workload::{Publisher, Record};
use serde_json::{Value, json};

use super::generations::{COUNTS, counts};
use super::rebalance::StopWhenDropped;
use crate::harness::{
    Argument, Host, Platform, Plugins, ReadModel, Session, describing, descriptor, eventually,
};

/// What the promise says, and what it takes to look.
const MOST_HELD: Duration = Duration::from_millis(1_250);

/// Another generation of `counts`, in which a `Z` fails.
fn that_rejects_z() -> Vec<u8> {
    let mut declared: Value = serde_json::from_str(&descriptor(COUNTS)).unwrap();
    declared["version"] = json!("2.0.0");
    declared["revision"] = json!(2);
    declared["lookups"] = json!([]);
    declared["topics"][0]["lookups"] = json!([]);
    let mut guest = describing(&declared.to_string());
    let mut answers: Vec<usize> =
        (0..25).map(|kind| guest.changes(&[(0, &[Argument::Int64(kind), Argument::Int64(1)])])).collect();
    answers.push(guest.rejection("odd", "it is a Z"));
    guest.answering(&answers).component()
}

struct Holds {
    platform: Platform,
    _plugins: Plugins,
    host: Host,
}

impl Holds {
    /// With a generation beside the live one.
    fn new(name: &str, beside: &[u8]) -> Holds {
        let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", |_| {}));
        let platform = Platform::new(name, &[], ReadModel::postgres())
            .set(&["plugins", "directory"], plugins.path())
            .set(&["failures", "policy"], "halt")
            .set(&["deploy", "rebuild-share"], 1.0)
            .set(&["batch", "events"], 20);
        platform.create_topics(2);
        let host = platform.start_host("host");
        let it = Holds { platform, _plugins: plugins, host };
        it.publish("ABC");
        it.platform.until_through(COUNTS);
        let file = it.platform.directory().join("next.wasm");
        std::fs::write(&file, beside).unwrap();
        it.platform.ask(&["deploy", &file.display().to_string()]);
        eventually("the generation beside the live one is caught up", || {
            let caught_up = "select count(*)::text from projector.generation
                             where role = 'building' and caught_up_at is not null";
            if it.number(caught_up) == 1 { Ok(()) } else { Err("it is not") }
        });
        it
    }

    fn publish(&self, letters: &str) {
        let topic = self.platform.topic("hostile.events.v1");
        let record = |(at, letter): (usize, char)| Record::new(&*topic, format!("k{at}"), letter.to_string());
        self.platform.publish(&letters.chars().enumerate().map(record).collect::<Vec<_>>());
    }

    fn number(&self, sql: &str) -> i64 {
        self.platform.read_model().query(sql)[0][0].as_ref().unwrap().parse().unwrap()
    }

    /// Runs `done` while events arrive. Returns for how long the live generation was held without a pause, at most.
    fn longest_hold(&self, done: impl FnOnce()) -> Duration {
        let ReadModel::Postgres { url } = self.platform.read_model() else {
            unreachable!("it is on Postgres")
        };
        let going = AtomicBool::new(true);
        let topic = self.platform.topic("hostile.events.v1");
        thread::scope(|scope| {
            let _last = StopWhenDropped(&going);
            scope.spawn(|| {
                while going.load(Ordering::Relaxed) {
                    let some: Vec<Record> =
                        (0..100).map(|at| Record::new(&*topic, format!("k{at}"), "A".to_owned())).collect();
                    let began = Instant::now();
                    let pace = |index: usize| Ok(began.elapsed().as_millis() >= 5 * index as u128);
                    Publisher::new(self.platform.brokers()).pace(pace).publish(&some).unwrap();
                }
            });
            let watching = scope.spawn(|| {
                let mut session = Session::open(url).unwrap();
                let (mut since, mut longest) = (None, Duration::ZERO);
                while going.load(Ordering::Relaxed) {
                    let held = "select coalesce(hold_until > clock_timestamp(), false)::text
                                from projector.generation where role = 'live'";
                    match session.run(held).first().map(String::as_str) {
                        Some("true") => {
                            let since = since.get_or_insert_with(Instant::now);
                            longest = longest.max(since.elapsed());
                        }
                        _ => since = None,
                    }
                }
                longest
            });
            done();
            going.store(false, Ordering::Relaxed);
            watching.join().unwrap()
        })
    }
}

#[test]
fn a_diff_against_a_generation_that_stands_still_is_refused_and_holds_nothing() {
    let it = Holds::new("diff-still", &that_rejects_z());
    it.publish("Z");
    let halted =
        "select count(*)::text from projector.generation where role = 'building' and halted is not null";
    eventually("it stands still", || if it.number(halted) == 1 { Ok(()) } else { Err("it runs") });
    let longest = it.longest_hold(|| {
        let began = Instant::now();
        let (code, said) = it.platform.says(&["diff", COUNTS]);
        println!("refused after {:?}", began.elapsed());
        assert!(
            code == 1 && said.contains("does not progress") && said.contains("it is a Z"),
            "{code}: {said}"
        );
    });
    assert_eq!(longest, Duration::ZERO, "nothing was to be held");
    // A promotion would make readers see a step back, and holds nothing either.
    let longest = it.longest_hold(|| {
        let (code, said) = it.platform.says(&["promote", COUNTS, "--force", "--reason", "in a hurry"]);
        assert!(code == 1 && said.contains("it is a Z"), "{code}: {said}");
    });
    assert_eq!(longest, Duration::ZERO, "nothing was to be held");
    it.host.sigterm();
}

#[test]
fn the_live_generation_is_held_for_a_second_at_most() {
    let it = Holds::new("short-holds", &counts("2.0.0", |declared| declared["revision"] = json!(2)));
    let longest = it.longest_hold(|| {
        for _ in 0..3 {
            it.platform.ask(&["diff", COUNTS]);
        }
    });
    println!("held for {longest:?} to compare");
    assert!(longest > Duration::ZERO && longest < MOST_HELD, "it was held for {longest:?}");
    let longest = it.longest_hold(|| drop(it.platform.ask(&["promote", COUNTS])));
    println!("held for {longest:?} to promote");
    assert!(longest < MOST_HELD, "it was held for {longest:?}");
    it.host.sigterm();
}
