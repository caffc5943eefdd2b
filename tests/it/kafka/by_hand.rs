//! Somebody changes a projection's tables by hand, beside a host that writes them.

use projector_workload::Record;
use serde_json::json;

use crate::harness::{
    Platform, Plugins, ReadModel, SALES_BY_COUNTRY, Session, assert_closed, dead_letters, eventually, rows,
    seed,
};

struct Changed {
    platform: Platform,
    hand: Session,
    _plugins: Plugins,
}

impl Changed {
    /// The hostile guest, which writes well here, and a neighbour.
    fn new(name: &str) -> Changed {
        let plugins = Plugins::new(&[SALES_BY_COUNTRY, "hostile-guest"]);
        let platform = Platform::new(name, &[SALES_BY_COUNTRY], ReadModel::postgres())
            .set(&["plugins", "directory"], plugins.path());
        platform.create_topics(1);
        let ReadModel::Postgres { url } = platform.read_model() else { unreachable!("it is on Postgres") };
        let hand = Session::open(url).unwrap();
        Changed { platform, hand, _plugins: plugins }
    }

    fn write(&self, ids: impl IntoIterator<Item = u32>) {
        let topic = self.platform.topic("hostile.events.v1");
        let event = |id: u32| {
            let id = format!("{id:03}");
            Record::new(&*topic, &*id, json!({"do": "write", "id": id}).to_string())
        };
        self.platform.publish(&ids.into_iter().map(event).collect::<Vec<_>>());
    }

    fn written(&self) -> Vec<String> {
        let rows = rows(self.platform.read_model(), "hostile", "survivor", &["id"]);
        rows.into_iter().flatten().flatten().collect()
    }
}

fn ids(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("{number:03}")).collect()
}

/// Fault 22.
#[test]
fn a_check_added_by_hand_costs_the_events_that_violate_it_and_no_other() {
    let mut changed = Changed::new("check");
    changed.write(0..10);
    let host = changed.platform.start_host("host");
    changed.platform.until_through("hostile");
    // 007 was there before the check, and would not come in again.
    changed.hand.run("delete from hostile_g1.survivor where id = '007'");
    changed.hand.run("alter table hostile_g1.survivor add constraint no_sevens check (id not like '%7')");
    changed.write(5..40);
    assert_closed(&changed.platform.until_through("hostile"), 45, 0, 4);
    for letter in changed.platform.ask(&["dlq", "list", "hostile"]).as_array().unwrap() {
        assert_eq!(
            (&letter["table"], &letter["constraint"]),
            (&json!("survivor"), &json!("no_sevens")),
            "{letter}"
        );
    }
    let letters = dead_letters(changed.platform.read_model(), "hostile");
    for (letter, id) in letters.iter().zip(["007", "017", "027", "037"]) {
        assert_eq!((letter.key.as_deref(), letter.verdict()), (Some(id.as_bytes()), "refused (data)".into()));
        assert!(letter.detail.contains("no_sevens"), "the check is not named: {letter:?}");
    }
    assert_eq!(changed.written(), ids((0..40).filter(|number| number % 10 != 7)));
    host.sigterm();
}

/// Fault 23: the projection stands still, with nothing given up, until the column is there again and
/// the host is started anew.
#[test]
fn a_column_dropped_by_hand_stops_its_projection_and_no_other() {
    let mut changed = Changed::new("dropped");
    changed.write(0..10);
    let host = changed.platform.start_host("host");
    changed.platform.until_through("hostile");
    changed.hand.run("alter table hostile_g1.survivor drop column note cascade");
    changed.write(10..20);
    let said = ["the tables were changed by hand", "note", "survivor"];
    let halted = eventually("it stands still", || {
        let hostile = changed.platform.status()?.remove("hostile").ok_or("it is not installed")?;
        hostile.halted.clone().ok_or(format!("{hostile:?}"))
    });
    let line = host.log().until_said("projection is blocked");
    for word in said {
        assert!(halted.says(&[word]) && line.field("reason").contains(word), "{word:?} is not in {halted:?}");
    }
    changed.platform.publish(&changed.platform.workload(seed(381), 200).records().collect::<Vec<_>>());
    changed.platform.assert_sales_are_right();
    let hostile = changed.platform.status().unwrap().remove("hostile").unwrap();
    assert_eq!((hostile.counters.read, hostile.dead_letters), (10, 0), "{hostile:?}");
    host.sigterm();

    changed.hand.run("alter table hostile_g1.survivor add column note text collate \"C\"");
    changed.hand.run("create view hostile.survivor as select id, note from hostile_g1.survivor");
    let host = changed.platform.start_host("after the repair");
    host.group("hostile");
    assert_closed(&changed.platform.until_through("hostile"), 20, 0, 0);
    assert_eq!(changed.written(), ids(0..20));
    host.sigterm();
}
