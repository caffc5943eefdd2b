//! Reads: many calls at once, each answered in its place, rows in the order of the key.

use anyhow::Result;
use projector_model::interpret::Row;
use projector_model::{Change, LookupCall, Value};
use serde_json::{Value as Json, json};

use super::home::Home;
use super::on_both_stores;
use super::projection::{Projection, call, contract, descriptor, text};

on_both_stores!(
    calls_are_answered_in_the_order_asked,
    a_limit_takes_the_first_rows_by_key,
    what_was_deleted_is_found_by_its_key_alone_and_as_a_tombstone,
    a_transaction_reads_what_others_committed,
    no_more_is_read_than_there_is_room_for,
);

/// Orders by a key of a decimal and a text, found by their customer.
fn orders() -> Json {
    descriptor(
        json!([{"name": "order", "key": ["number", "part"], "indexes": [{"columns": ["customer", "open"]}], "columns": [
            {"name": "part", "type": "text"}, {"name": "number", "type": "decimal(6,1)"},
            {"name": "customer", "type": "text", "nullable": true}, {"name": "open", "type": "boolean", "nullable": true},
            {"name": "version", "type": "int64", "nullable": true}]}])
        .to_string()
        .replace("\"order\"", "\"purchase\"")
        .parse()
        .expect("still JSON"),
        json!([
            {"name": "put", "table": "purchase", "kind": "upsert", "set": [{"column": "customer"}, {"column": "open"}]},
            {"name": "remove", "table": "purchase", "kind": "delete", "by": ["part", "number"], "guard": "version"},
        ]),
        json!([
            {"name": "one", "table": "purchase", "by": ["part", "number"], "columns": ["customer"]},
            {"name": "of-customer", "table": "purchase", "by": ["customer"], "columns": ["part", "number"], "limit": 3},
            {"name": "open-ones", "table": "purchase", "by": ["open", "customer"], "columns": ["part", "number"], "limit": 100},
        ]),
    )
}

const ONE: u16 = 0;
const OF_CUSTOMER: u16 = 1;
const OPEN_ONES: u16 = 2;

fn put(number: &str, part: &str, customer: &str, open: bool) -> Change {
    call(0, [decimal(number), text(part), text(customer), Value::Boolean(open)])
}

fn decimal(number: &str) -> Value {
    Value::Decimal(number.parse().expect(number))
}

fn find(lookup: u16, arguments: impl IntoIterator<Item = Value>) -> LookupCall {
    LookupCall { lookup, arguments: arguments.into_iter().collect() }
}

/// `number part` of the rows that each call finds.
fn keys(found: &[Vec<Vec<Value>>]) -> Vec<Vec<String>> {
    let key = |row: &Vec<Value>| match (&row[1], &row[0]) {
        (Value::Decimal(number), Value::Text(part)) => format!("{number} {part}"),
        other => panic!("{other:?}"),
    };
    found.iter().map(|rows| rows.iter().map(key).collect()).collect()
}

async fn filled(home: &Home) -> Result<Projection> {
    let projection = Projection::install(home.open().await?, contract(&orders())).await?;
    let rows = [
        put("10", "a", "eve", true),
        put("9", "b", "eve", true),
        put("9", "B", "eve", false),
        put("-9", "a", "eve", true),
        put("-10", "a", "eve", true),
        put("100.5", "é", "bob", true),
        put("9", "a", "bob", false),
    ];
    projection.write(&[rows.into()]).await?;
    Ok(projection)
}

async fn calls_are_answered_in_the_order_asked(home: Home) -> Result<()> {
    let projection = filled(&home).await?;
    let found = projection
        .read(&[
            find(ONE, [text("b"), decimal("9.0")]),
            find(OPEN_ONES, [Value::Boolean(true), text("eve")]),
            find(ONE, [text("nothing"), decimal("9")]),
            find(OPEN_ONES, [Value::Boolean(false), text("bob")]),
            find(ONE, [text("é"), decimal("100.5")]),
            find(ONE, [text("b"), decimal("9")]),
        ])
        .await?;
    assert_eq!(
        keys(&found),
        [
            vec!["9.0 b"],
            vec!["-10.0 a", "-9.0 a", "9.0 b", "10.0 a"],
            vec![],
            vec!["9.0 a"],
            vec!["100.5 é"],
            vec!["9.0 b"]
        ]
    );
    // By the key whole rows, in declared order; else what the lookup returns.
    assert_eq!(found[0], [[text("b"), decimal("9"), text("eve"), Value::Boolean(true), Value::Null]]);
    assert_eq!(found[3], [[text("a"), decimal("9")]]);
    assert_eq!(projection.read(&[]).await?, Vec::<Vec<Vec<Value>>>::new());
    Ok(())
}

async fn a_limit_takes_the_first_rows_by_key(home: Home) -> Result<()> {
    let projection = filled(&home).await?;
    let found =
        projection.read(&[find(OF_CUSTOMER, [text("eve")]), find(OF_CUSTOMER, [text("bob")])]).await?;
    // Texts by their bytes: B before b.
    assert_eq!(keys(&found), [vec!["-10.0 a", "-9.0 a", "9.0 B"], vec!["9.0 a", "100.5 é"]]);
    Ok(())
}

async fn what_was_deleted_is_found_by_its_key_alone_and_as_a_tombstone(home: Home) -> Result<()> {
    let projection = filled(&home).await?;
    projection.write(&[vec![call(1, [text("a"), decimal("-10"), Value::Int64(1)])]]).await?;
    let calls =
        [find(ONE, [text("a"), decimal("-10.0")]), find(OPEN_ONES, [Value::Boolean(true), text("eve")])];
    let found = projection.begin().await?.read(&calls, usize::MAX).await?;
    let values = vec![text("a"), decimal("-10.0"), Value::Null, Value::Null, Value::Int64(1)];
    assert_eq!(found[0], Some(vec![Row { values, tombstone: true }]));
    assert!(found[1].iter().flatten().all(|row| !row.tombstone));
    assert_eq!(keys(&projection.read(&calls).await?)[1], ["-9.0 a", "9.0 b", "10.0 a"]);
    Ok(())
}

async fn a_transaction_reads_what_others_committed(home: Home) -> Result<()> {
    let projection = filled(&home).await?;
    let many: Vec<LookupCall> =
        (0..3_000).map(|at| find(ONE, [text("a"), decimal(if at % 2 == 0 { "10" } else { "11" })])).collect();
    let found = projection.read(&many).await?;
    assert!(found.iter().enumerate().all(|(at, rows)| rows.len() == usize::from(at % 2 == 0)));
    projection.write(&[vec![put("11", "a", "new", true)]]).await?;
    assert!(projection.read(&many).await?.iter().all(|rows| rows.len() == 1));
    Ok(())
}

async fn no_more_is_read_than_there_is_room_for(home: Home) -> Result<()> {
    let projection = filled(&home).await?;
    let long: Vec<Change> =
        (0..200).map(|at| put(&at.to_string(), "x", &"long ".repeat(2_000), true)).collect();
    projection.write(&[long]).await?;
    let one = |at: i32| find(ONE, [text("x"), decimal(&format!("{at}.0"))]);
    let mut tx = projection.begin().await?;
    let row_bytes =
        tx.read(&[one(0)], usize::MAX).await?[0].iter().flatten().map(Row::size_bytes).sum::<usize>();
    assert!(row_bytes > 10_000, "{row_bytes}");
    // The last one finds nothing, and is not found out.
    let calls: Vec<LookupCall> = (0..201).map(one).collect();
    for room in [0, 1, 3, 199] {
        let found = tx.read(&calls, room * row_bytes + 1).await?;
        let answered: Vec<bool> = found.iter().map(Option::is_some).collect();
        assert_eq!(answered, (0..201).map(|at| at < room).collect::<Vec<_>>());
    }
    let found = tx.read(&calls, 200 * row_bytes).await?;
    assert!(
        found
            .iter()
            .enumerate()
            .all(|(at, rows)| rows.as_ref().is_some_and(|rows| rows.len() == usize::from(at < 200)))
    );
    // Each lookup has its share, and what one leaves is for the next: all that these find is small.
    let calls =
        [find(OF_CUSTOMER, [text("bob")]), one(0), find(OPEN_ONES, [Value::Boolean(true), text("eve")])];
    let found = tx.read(&calls, row_bytes).await?;
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    Ok(())
}
