//! What authors write, and what the host makes of it.

use crate::shop::{Article, Shop, StockLevel};
use projector_sdk::model::{Change, Value};
use projector_sdk::prelude::*;
use projector_sdk::record::{Answer, Record};
use projector_sdk::testing::{Handled, Harness};
use projector_sdk::{Projection, log::Level};
use serde_json::json;

const ID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn list(harness: &mut Harness<Shop>, id: &str, shelf: &str, price: &str) -> Handled {
    let article = json!({"id": id, "title": format!("Mat {price}"), "shelf": shelf, "price": price, "at": "2026-02-28T23:59:59Z"});
    harness
        .event("article.v1")
        .key(id)
        .header("tag", "first")
        .header("tag", "yoga")
        .header("picture", [1, 2])
        .timestamp_ms(1_500)
        .json(article)
        .send()
}

fn stock(harness: &mut Harness<Shop>, event: serde_json::Value) -> Handled {
    let mut event = event;
    event["place"] = "A".into();
    event["day"] = "2026-01-02".into();
    harness.event("stock.v1").key("A").json(event).send()
}

fn day() -> Date {
    Date::new(2026, 1, 2).expect("a day of January")
}

fn level(harness: &Harness<Shop>) -> Option<StockLevel> {
    harness.row(("A", &day()))
}

#[test]
fn a_row_comes_back_as_it_was_written() {
    let mut harness = Harness::<Shop>::new();
    list(&mut harness, ID, "mats", "12.5").expect_applied();
    let id: Uuid = ID.parse().unwrap();
    assert_eq!(
        harness.row::<Article>(&id),
        Some(Article {
            article_id: id,
            shelf: Some("mats".into()),
            title: "Mat 12.5".into(),
            price: "12.50".parse().unwrap(),
            weight: None,
            tags: Json(vec!["yoga".into()]),
            picture: Some(Bytes(vec![1, 2])),
            in_stock: 0,
            ratio: 0.5,
            on_sale: false,
            since: Date::new(2026, 2, 28).unwrap(),
            changed_at: "1970-01-01T00:00:01.5Z".parse().unwrap(),
        })
    );
    assert_eq!(harness.log(), [(Level::Info, format!("{ID} is listed"))]);
}

#[test]
fn a_tombstone_reaches_a_handler_that_takes_an_option() {
    let mut harness = Harness::<Shop>::new();
    list(&mut harness, ID, "mats", "1").expect_applied();
    assert_eq!(harness.event("article.v1").key(ID).send().expect_applied(), 1);
    assert_eq!(harness.rows::<Article>(), []);
    harness.event("article.v1").key([0xff]).send().expect_ignored("no-news");
    let detail = harness.event("sale.v1").key("x").send().expect_rejected("bad-payload");
    assert!(detail.contains("tombstone"), "{detail}");
}

#[test]
fn operations_meet_what_is_stored() {
    let mut harness = Harness::<Shop>::new();
    for (amount, note) in [(5, None), (-3, Some("broken")), (1, Some("found"))] {
        let moved = json!({"type": "moved", "amount": amount, "note": note});
        stock(&mut harness, moved).expect_applied();
    }
    let moved = StockLevel {
        amount: 3,
        place: "A".into(),
        day: day(),
        lowest: Some(-3),
        first_note: Some("broken".into()),
        version: None,
    };
    assert_eq!(level(&harness), Some(moved.clone()));
    let opened = json!({"type": "opened", "amount": 100});
    assert_eq!(stock(&mut harness, opened).expect_applied(), 0, "the row is there");
    assert_eq!(level(&harness), Some(moved));
}

#[test]
fn versions_decide() {
    let mut harness = Harness::<Shop>::new();
    let mut send = |kind, version, amount| {
        let event = json!({"type": kind, "version": version, "amount": amount});
        let touched = stock(&mut harness, event).expect_applied();
        (touched, level(&harness).map(|level| level.amount))
    };
    assert_eq!(send("counted", 5, 10), (1, Some(10)));
    assert_eq!(send("counted", 4, 11), (0, Some(10)));
    assert_eq!(send("closed", 6, 0), (1, None));
    assert_eq!(send("counted", 5, 12), (0, None));
    assert_eq!(send("counted", 7, 13), (1, Some(13)));
}

#[test]
fn a_miss_can_be_a_rejection_and_a_handler_can_have_two_topics() {
    let mut harness = Harness::<Shop>::new();
    let mut sale = |topic, shelf| {
        list(&mut harness, ID, "mats", "1").expect_applied();
        harness.event(topic).json(shelf).send()
    };
    assert_eq!(sale("sale.v1", "mats").expect_applied(), 1);
    assert_eq!(sale("sale.v2", "mats").expect_applied(), 1);
    sale("sale.v2", "blocks").expect_rejected("missed");
}

#[test]
fn helpers_stop_the_handler() {
    let mut harness = Harness::<Shop>::new();
    let detail = list(&mut harness, ID, "mats", "cheap").expect_rejected("bad-price");
    assert!(detail.contains("cheap"), "{detail}");
}

#[test]
fn reads_see_the_rows() {
    let mut harness = Harness::<Shop>::new();
    for (id, price) in [(3, "3"), (1, "1"), (2, "2")] {
        list(&mut harness, &Uuid::from_u128(id).to_string(), "mats", price).expect_applied();
    }
    stock(&mut harness, json!({"type": "opened", "amount": 8})).expect_applied();
    for prefetch in [false, true] {
        let question = json!({"shelf": "mats", "place": "A", "day": "2026-01-02", "prefetch": prefetch, "swallow": false});
        let answer = harness.event("question.v1").json(question).send().expect_ignored("asked");
        assert_eq!(answer, r#"8 ["Mat 1", "Mat 2"]"#, "in the order of the key, at most two");
    }
}

/// How many lookup calls one call of the handler asks for.
fn needs(prefetch: bool, swallow: bool) -> usize {
    let question =
        json!({"shelf": "s", "place": "A", "day": "2026-01-02", "prefetch": prefetch, "swallow": swallow});
    let topics = Shop::descriptor().topics;
    let topic =
        topics.iter().position(|topic| topic.name == "question.v1").expect("a topic of the shop") as u16;
    let record = Record { topic, value: Some(question.to_string().into_bytes()), ..Record::default() };
    match Shop::project(&record, Vec::new()) {
        Ok(Answer::Needs(calls)) => calls.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_wait_one_by_one_or_together() {
    assert_eq!(needs(false, false), 1);
    assert_eq!(needs(true, false), 2);
    assert_eq!(needs(false, true), 2, "a swallowed stop still waits");
}

#[test]
fn arguments_stand_as_the_declaration_says() {
    let mut harness = Harness::<Shop>::new();
    let handled = stock(&mut harness, json!({"type": "moved", "amount": 5, "note": "n"}));
    let Handled::Applied { changes, .. } = handled else { panic!("{handled:?}") };
    let key = [Value::Text("A".into()), Value::Date(day().as_days())];
    let set = [Value::Int64(5), Value::Int64(5), Value::Text("n".into())];
    let arguments = key.into_iter().chain(set).collect();
    assert_eq!(changes, [Change { statement: 2, arguments }]);
}

#[test]
fn the_descriptor_is_what_the_source_says() {
    let descriptor: serde_json::Value = serde_json::from_str(&Shop::descriptor().to_json()).unwrap();
    assert_eq!(descriptor["name"], "shop");
    assert_eq!((&descriptor["version"], &descriptor["revision"]), (&json!("7"), &json!(3)));
    let names = |list: &str| -> Vec<_> {
        let list = descriptor[list].as_array().unwrap();
        list.iter().map(|declared| declared["name"].as_str().unwrap()).collect()
    };
    assert_eq!(names("topics"), ["article.v1", "stock.v1", "sale.v1", "sale.v2", "cloud.v1", "question.v1"]);
    assert_eq!(names("tables"), ["article", "stock_level"]);
    assert_eq!(
        names("statements"),
        ["article", "dropped", "moved", "opened", "counted", "closed", "shelf-sale"]
    );
    assert_eq!(names("lookups"), ["on-shelf", "stock_level", "article"]);
    assert_eq!(
        descriptor["statements"][2],
        json!({
            "name": "moved", "table": "stock_level", "kind": "upsert", "set": [
                {"column": "amount", "operation": "add"}, {"column": "lowest", "operation": "min"},
                {"column": "first_note", "operation": "set-if-null"},
            ],
        })
    );
    assert_eq!(
        descriptor["statements"][5],
        json!({"name": "closed", "table": "stock_level", "kind": "delete", "by": ["place", "day"], "guard": "version"})
    );
    assert_eq!(
        descriptor["tables"][0]["indexes"],
        json!([
            {"columns": ["shelf"]}, {"columns": ["tags"], "kind": "contains"},
        ])
    );
    assert_eq!(descriptor["tables"][0]["columns"][3], json!({"name": "price", "type": "decimal(10,2)"}));
    let lineage = [0, 1].map(|table| descriptor["tables"][table].get("lineage"));
    assert_eq!(lineage, [None, Some(&json!(true))]);
    assert_eq!(descriptor["ignores"][1], json!({"code": "asked"}));
}

#[test]
fn topics_that_are_keyed_alike_name_their_group() {
    let topics = Shop::descriptor().topics;
    let groups: Vec<_> = topics.iter().map(|topic| topic.ordering_group.as_deref()).collect();
    assert_eq!(groups, [None, None, Some("shelf"), None, None, None]);
}

#[test]
fn a_topic_says_how_its_duplicates_are_told() {
    let topics = Shop::descriptor().topics;
    let declared: Vec<_> = topics.iter().map(|topic| json!(topic)["event-id"].clone()).collect();
    let of_header = json!({"header": "x-event-id", "window-seconds": 604_800});
    let of_field = json!({"field": "saleId", "window-seconds": 129_600});
    let in_parts = json!({"parts": [{"header": "ce_source"}, {"header": "ce_id"}], "window-seconds": 3_600});
    assert_eq!(declared, [json!(null), json!(null), of_header, of_field, in_parts, json!(null)]);
}
