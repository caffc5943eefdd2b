//! Two generations are compared row by row: what differs is counted by column and shown, and what does not
//! is not.
//!
//! The second generation is that of another projection: to the comparison a generation is a schema.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use projector_core::refusal::Refusal;
use projector_model::{Change, Decimal, Value};
use projector_store::StoreError;
use projector_store::diff::{Diff, DiffRequest, Difference, Expected, NotCompared, TableDiff};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

use super::home::Home;
use super::on_both_stores;
use super::projection::{Projection, call, contract, descriptor, numeric, partition, text};

on_both_stores!(
    equal_tables_have_no_differences,
    a_value_of_each_type_differs_in_its_own_column,
    null_differs_from_every_value_and_not_from_null,
    the_zeros_are_one_and_no_number_is_one,
    documents_are_compared_by_meaning,
    rows_that_one_has_are_counted_and_the_first_are_shown,
    tombstones_and_lineage_are_not_compared,
    a_key_of_several_columns_in_any_order_matches_rows,
    columns_that_cannot_be_compared_are_named,
    what_is_expected_is_left_out_and_named,
    an_expected_word_that_nobody_knows_is_refused,
    a_table_with_another_key_and_one_that_is_gone_are_differences,
    what_waits_is_listed_apart,
    a_snapshot_stays_as_it_was_and_keeps_no_writer_waiting,
    the_widest_table_is_compared,
    many_rows_are_compared_where_they_are,
    any_tables_differ_as_a_comparison_in_memory_says,
);

/// Two generations, empty.
struct Both {
    home: Home,
    old: Projection,
    new: Projection,
}

impl Both {
    async fn of(home: Home, old: Json, mut new: Json) -> Result<Self> {
        let store = home.open().await?;
        new["name"] = "some-orders-new".into();
        let old = Projection::install(store.clone(), contract(&old)).await?;
        let new = Projection::install(store, contract(&new)).await?;
        Ok(Self { home, old, new })
    }

    async fn alike(home: Home, descriptor: Json) -> Result<Self> {
        Self::of(home, descriptor.clone(), descriptor).await
    }

    async fn write(&self, old: &[Change], new: &[Change]) -> Result<()> {
        self.old.write(&[old.to_vec()]).await?;
        Ok(self.new.write(&[new.to_vec()]).await?)
    }

    fn another_home(&self) -> Result<Home> {
        match self.home {
            Home::Postgres { .. } => Home::postgres(),
            Home::Sqlite { .. } => Home::sqlite(),
        }
    }

    async fn try_diff(&self, expected: &[&str], samples: usize) -> Result<Diff, StoreError> {
        let words: Vec<String> = expected.iter().map(|word| (*word).to_owned()).collect();
        let expected = Expected::parse(&words).expect("words that name something");
        let (old, new) = (&self.old.deployment, &self.new.deployment);
        let request = DiffRequest {
            old: (&old.generation, &old.contract),
            new: (&new.generation, &new.contract),
            expected: &expected,
            samples,
        };
        self.old.store.snapshot().await?.diff(&request).await
    }

    async fn diff(&self) -> Result<Diff> {
        Ok(self.try_diff(&[], 10).await?)
    }

    /// Runs a statement on a table of either generation: `{}` stands for it.
    async fn by_hand(&self, table: &str, sql: &str) -> Result<()> {
        for generation in ["some_orders_g1", "some_orders_new_g1"] {
            let on = |name: String| sql.replace("{}", &name);
            let (postgres, sqlite) = (format!("{generation}.{table}"), format!("{generation}__{table}"));
            self.home.by_hand(&on(postgres), &on(sqlite)).await?;
        }
        Ok(())
    }
}

const TYPES: [&str; 10] =
    ["boolean", "int64", "float64", "decimal(20,2)", "text", "bytes", "json", "timestamp", "date", "uuid"];

/// Two values of a type, and how they are shown.
fn values(ty: &str) -> [(Value, Json); 2] {
    let decimal = |text: &str| Value::Decimal(text.parse::<Decimal>().expect(text));
    match ty {
        "boolean" => [(Value::Boolean(true), json!(true)), (Value::Boolean(false), json!(false))],
        "int64" => {
            [(Value::Int64(i64::MAX), json!(i64::MAX)), (Value::Int64(i64::MAX - 1), json!(i64::MAX - 1))]
        }
        "float64" => [(Value::Float64(0.1), json!(0.1)), (Value::Float64(f64::INFINITY), json!("inf"))],
        "decimal(20,2)" => [(decimal("1.5"), json!("1.50")), (decimal("1.51"), json!("1.51"))],
        "text" => [(text("a"), json!("a")), (text("A"), json!("A"))],
        "bytes" => [(Value::Bytes(vec![255]), json!({"hex": "ff"})), (Value::Bytes(b"a".into()), json!("a"))],
        "json" => [
            (Value::Json(r#"{"a":[1]}"#.into()), json!({"a": [1]})),
            (Value::Json(r#"{"a":[2]}"#.into()), json!({"a": [2]})),
        ],
        "timestamp" => [
            (Value::Timestamp(0), json!("1970-01-01T00:00:00.000000Z")),
            (Value::Timestamp(-1), json!("1969-12-31T23:59:59.999999Z")),
        ],
        "date" => [(Value::Date(0), json!("1970-01-01")), (Value::Date(19_782), json!("2024-02-29"))],
        "uuid" => [
            (Value::Uuid([0; 16]), json!("00000000-0000-0000-0000-000000000000")),
            (Value::Uuid([255; 16]), json!("ffffffff-ffff-ffff-ffff-ffffffffffff")),
        ],
        _ => unreachable!("a type of the list above"),
    }
}

/// A table `row` by `id`, with these columns, which may be null, and a statement that sets them.
fn wide(columns: &[(String, &str)]) -> Json {
    let mut declared = vec![json!({"name": "id", "type": "int64"})];
    declared.extend(columns.iter().map(|(name, ty)| json!({"name": name, "type": ty, "nullable": true})));
    let set: Vec<_> = columns.iter().map(|(name, _)| json!({"column": name})).collect();
    descriptor(
        json!([{"name": "row", "key": ["id"], "columns": declared}]),
        json!([{"name": "put", "table": "row", "kind": "upsert", "set": set}]),
        json!([]),
    )
}

fn all_types() -> Json {
    let columns: Vec<_> = TYPES.iter().enumerate().map(|(at, ty)| (format!("c{at}"), *ty)).collect();
    wide(&columns)
}

fn put(id: i64, values: impl IntoIterator<Item = Value>) -> Change {
    call(0, std::iter::once(Value::Int64(id)).chain(values))
}

fn first_values() -> Vec<Value> {
    TYPES.iter().map(|ty| values(ty)[0].0.clone()).collect()
}

fn only<T>(list: &[T]) -> &T {
    assert_eq!(list.len(), 1);
    &list[0]
}

fn counts(diff: &TableDiff) -> [i64; 5] {
    [diff.rows_old, diff.rows_new, diff.only_in_old, diff.only_in_new, diff.differ]
}

fn by_column(diff: &TableDiff) -> Vec<(&str, i64)> {
    diff.by_column.iter().map(|(column, rows)| (&**column, *rows)).collect()
}

async fn equal_tables_have_no_differences(home: Home) -> Result<()> {
    let both = Both::alike(home, all_types()).await?;
    let rows = [put(1, first_values()), put(2, vec![Value::Null; TYPES.len()])];
    both.write(&[], &[]).await?;
    assert!(both.diff().await?.is_equal(), "two empty tables");
    both.write(&rows, &rows).await?;
    let diff = both.diff().await?;
    assert!(diff.is_equal(), "{diff:?}");
    assert_eq!(counts(only(&diff.tables)), [2, 2, 0, 0, 0]);
    assert!(diff.tables[0].by_column.is_empty() && diff.tables[0].samples.is_empty());
    assert_eq!(serde_json::from_value::<Diff>(serde_json::to_value(&diff)?)?, diff);
    Ok(())
}

async fn a_value_of_each_type_differs_in_its_own_column(home: Home) -> Result<()> {
    let both = Both::alike(home, all_types()).await?;
    let old: Vec<Change> = (0..TYPES.len() as i64).map(|id| put(id, first_values())).collect();
    let mut new = old.clone();
    for (at, ty) in TYPES.iter().enumerate() {
        new[at].arguments[at + 1] = values(ty)[1].0.clone();
    }
    both.write(&old, &new).await?;
    let diff = both.diff().await?;
    assert!(!diff.is_equal());
    let table = only(&diff.tables);
    assert_eq!(counts(table), [10, 10, 0, 0, 10]);
    assert_eq!(table.by_column.len(), TYPES.len());
    for (at, ty) in TYPES.iter().enumerate() {
        let [(_, old), (_, new)] = values(ty);
        let sample = &table.samples[at];
        assert_eq!(table.by_column[&format!("c{at}")], 1, "{ty}");
        assert_eq!(sample.kind, Difference::Differs);
        assert_eq!(sample.key, BTreeMap::from([("id".into(), json!(at))]));
        assert_eq!(sample.columns, BTreeMap::from([(format!("c{at}"), [old, new])]), "{ty}");
    }
    Ok(())
}

async fn null_differs_from_every_value_and_not_from_null(home: Home) -> Result<()> {
    let both = Both::alike(home, all_types()).await?;
    let nulls = vec![Value::Null; TYPES.len()];
    let old = [put(1, first_values()), put(2, nulls.clone()), put(3, nulls.clone())];
    let new = [put(1, nulls.clone()), put(2, first_values()), put(3, nulls)];
    both.write(&old, &new).await?;
    let diff = both.diff().await?;
    let table = only(&diff.tables);
    assert_eq!(counts(table), [3, 3, 0, 0, 2]);
    assert!(table.by_column.len() == TYPES.len() && table.by_column.values().all(|rows| *rows == 2));
    assert_eq!(table.samples[0].columns["c1"], [json!(i64::MAX), Json::Null]);
    assert_eq!(table.samples[1].columns["c1"], [Json::Null, json!(i64::MAX)]);
    Ok(())
}

async fn the_zeros_are_one_and_no_number_is_one(home: Home) -> Result<()> {
    let both = Both::alike(home, wide(&[("f".into(), "float64")])).await?;
    // Only by hand: the host stores one zero, and no NaN. What is infinite in SQLite is, less itself, null.
    let no_number = match both.home {
        Home::Postgres { .. } => "'NaN'",
        Home::Sqlite { .. } => "9e999 - 9e999",
    };
    both.by_hand("row", &format!("insert into {{}} values (1, 0.0), (2, -0.0), (3, {no_number})")).await?;
    assert!(both.diff().await?.is_equal());
    both.by_hand("row", "update {} set f = -f where id < 3").await?;
    assert!(both.diff().await?.is_equal());
    let swap = |schema: &str| format!("update {schema}row set f = -f where id = 1");
    both.home.by_hand(&swap("some_orders_g1."), &swap("some_orders_g1__")).await?;
    assert!(both.diff().await?.is_equal());
    both.new.write(&[vec![put(3, [Value::Float64(1.0)])]]).await?;
    let diff = both.diff().await?;
    assert_eq!(by_column(only(&diff.tables)), [("f", 1)]);
    let [old, new] = &diff.tables[0].samples[0].columns["f"];
    assert!((old == "NaN" || old.is_null()) && *new == json!(1.0), "{old} {new}");
    Ok(())
}

async fn documents_are_compared_by_meaning(home: Home) -> Result<()> {
    let both = Both::alike(home, wide(&[("doc".into(), "json")])).await?;
    let documents = |texts: [&str; 5]| {
        let put = |(id, text): (usize, &str)| put(id as i64, [Value::Json(text.into())]);
        texts.into_iter().enumerate().map(put).collect::<Vec<_>>()
    };
    let old = documents([r#"{"a":1,"b":[2.0]}"#, r#""\u00e9""#, "1e2", r#"{"a":1,"a":2}"#, "[1,2]"]);
    let new = documents([r#"{"b": [2], "a": 1.00}"#, r#""é""#, "100", r#"{"a":2}"#, "[2,1]"]);
    both.write(&old, &new).await?;
    let diff = both.diff().await?;
    let table = only(&diff.tables);
    assert_eq!(counts(table), [5, 5, 0, 0, 1]);
    assert_eq!(only(&table.samples).columns["doc"], [json!([1, 2]), json!([2, 1])]);
    Ok(())
}

async fn rows_that_one_has_are_counted_and_the_first_are_shown(home: Home) -> Result<()> {
    let both = Both::alike(home, wide(&[("n".into(), "int64"), ("m".into(), "int64")])).await?;
    let rows = |ids: std::ops::Range<i64>, n: i64| -> Vec<Change> {
        ids.map(|id| numeric(0, &[id, n, 0])).collect()
    };
    // 0..10 are old, 10..20 in both and the same, 20..30 in both and not, 30..45 new.
    let old = [rows(0..20, 1), rows(20..30, 1)].concat();
    let new = [rows(10..20, 1), rows(20..30, 2), rows(30..45, 1)].concat();
    both.write(&old, &new).await?;
    let diff = both.try_diff(&[], 3).await?;
    assert!(!diff.is_equal());
    let table = only(&diff.tables);
    assert_eq!(counts(table), [30, 35, 10, 15, 10]);
    assert_eq!(by_column(table), [("n", 10)]);
    let shown: Vec<_> = table.samples.iter().map(|sample| (sample.kind, sample.key["id"].clone())).collect();
    let three = |kind, first: i64| (first..first + 3).map(move |id| (kind, json!(id)));
    let all = three(Difference::OnlyInOld, 0).chain(three(Difference::OnlyInNew, 30));
    assert_eq!(shown, all.chain(three(Difference::Differs, 20)).collect::<Vec<_>>());
    let shown = serde_json::to_value(&table.samples)?;
    assert_eq!(shown[0], json!({"key": {"id": 0}, "kind": "only-in-old"}));
    assert_eq!(shown[6], json!({"key": {"id": 20}, "kind": "differs", "columns": {"n": [1, 2]}}));
    assert!(both.try_diff(&[], 0).await?.tables[0].samples.is_empty());
    Ok(())
}

async fn tombstones_and_lineage_are_not_compared(home: Home) -> Result<()> {
    let with = |guarded: bool| {
        let mut statements = json!([
            {"name": "put", "table": "row", "kind": "upsert", "set": [{"column": "n"}]},
            {"name": "bury", "table": "row", "kind": "delete", "by": ["id"], "guard": "n"},
        ]);
        if !guarded {
            statements.as_array_mut().into_iter().for_each(|list| drop(list.pop()));
        }
        descriptor(
            json!([{"name": "row", "key": ["id"], "lineage": true, "columns": [
                {"name": "id", "type": "int64"}, {"name": "n", "type": "int64"}]}]),
            statements,
            json!([]),
        )
    };
    let both = Both::alike(home, with(true)).await?;
    let put = |id: i64| numeric(0, &[id, 1]);
    let bury = |id: i64, version: i64| numeric(1, &[id, version]);
    // 1: both buried it, at other versions; 2: nobody wrote it but one's burial; 3: by other events.
    both.write(&[put(1), bury(1, 5), bury(2, 5), put(3)], &[put(3), put(1), put(1), bury(1, 6)]).await?;
    let diff = both.diff().await?;
    assert!(diff.is_equal(), "{diff:?}");
    assert_eq!(counts(only(&diff.tables)), [1, 1, 0, 0, 0]);
    // 4: alive in the old, buried in the new; 5: the other way.
    both.write(&[put(4), bury(5, 9)], &[bury(4, 9), put(5)]).await?;
    let diff = both.diff().await?;
    assert_eq!(counts(&diff.tables[0]), [2, 2, 1, 1, 0]);
    let shown: Vec<_> =
        diff.tables[0].samples.iter().map(|sample| (sample.kind, &sample.key["id"])).collect();
    assert_eq!(shown, [(Difference::OnlyInOld, &json!(4)), (Difference::OnlyInNew, &json!(5))]);
    // And where only one of them keeps tombstones.
    let other = Both::of(both.another_home()?, with(false), with(true)).await?;
    other.write(&[put(1)], &[put(1), bury(2, 3)]).await?;
    assert!(other.diff().await?.is_equal());
    Ok(())
}

async fn a_key_of_several_columns_in_any_order_matches_rows(home: Home) -> Result<()> {
    let keyed = |key: [&str; 2]| {
        descriptor(
            json!([{"name": "row", "key": key, "columns": [
                {"name": "a", "type": "text"}, {"name": "b", "type": "int64"}, {"name": "n", "type": "int64"}]}]),
            json!([{"name": "put", "table": "row", "kind": "upsert", "set": [{"column": "n"}]}]),
            json!([]),
        )
    };
    let both = Both::of(home, keyed(["a", "b"]), keyed(["b", "a"])).await?;
    let (a, b, n) = (|a: &str| text(a), Value::Int64, Value::Int64);
    both.write(
        &[call(0, [a("x"), b(1), n(1)]), call(0, [a("x"), b(2), n(1)]), call(0, [a("y"), b(1), n(1)])],
        &[call(0, [b(1), a("x"), n(1)]), call(0, [b(2), a("x"), n(2)]), call(0, [b(2), a("y"), n(1)])],
    )
    .await?;
    let diff = both.diff().await?;
    let table = only(&diff.tables);
    assert_eq!(counts(table), [3, 3, 1, 1, 1]);
    let keys: Vec<_> = table.samples.iter().map(|sample| json!(sample.key)).collect();
    assert_eq!(keys, [json!({"a": "y", "b": 1}), json!({"a": "y", "b": 2}), json!({"a": "x", "b": 2})]);
    Ok(())
}

async fn columns_that_cannot_be_compared_are_named(home: Home) -> Result<()> {
    let columns = |list: [(&str, &'static str); 3]| list.map(|(name, ty)| (name.to_owned(), ty));
    let both = Both::of(
        home,
        wide(&columns([("same", "int64"), ("gone", "int64"), ("typed", "decimal(9,2)")])),
        wide(&columns([("same", "int64"), ("come", "int64"), ("typed", "decimal(9,3)")])),
    )
    .await?;
    let n = Value::Int64;
    both.write(&[put(1, [n(1), n(2), Value::Null])], &[put(1, [n(1), n(3), Value::Null])]).await?;
    let diff = both.diff().await?;
    assert!(diff.is_equal());
    let named = [
        ("come".into(), NotCompared::OnlyInNew),
        ("gone".into(), NotCompared::OnlyInOld),
        ("typed".into(), NotCompared::TypesDiffer),
    ];
    assert_eq!(diff.tables[0].columns_not_compared, BTreeMap::from(named));
    Ok(())
}

async fn what_is_expected_is_left_out_and_named(home: Home) -> Result<()> {
    let both = Both::alike(home, wide(&[("n".into(), "int64"), ("m".into(), "int64")])).await?;
    both.write(&[numeric(0, &[1, 1, 1])], &[numeric(0, &[1, 2, 2])]).await?;
    let diff = both.try_diff(&["row.n"], 10).await?;
    assert!(!diff.is_equal());
    assert_eq!(by_column(&diff.tables[0]), [("m", 1)]);
    assert_eq!(only(&diff.tables[0].samples).columns.len(), 1);
    assert_eq!(diff.tables[0].columns_not_compared, BTreeMap::from([("n".into(), NotCompared::Expected)]));
    let diff = both.try_diff(&["row.n", "row.m"], 10).await?;
    assert!(diff.is_equal());
    assert_eq!(json!(diff.expected), json!(["row.m", "row.n"]));
    // Rows are not expected to be gone.
    both.new.write(&[vec![numeric(0, &[2, 1, 1])]]).await?;
    assert!(!both.try_diff(&["row.n", "row.m"], 10).await?.is_equal());
    let diff = both.try_diff(&["row"], 10).await?;
    assert!(diff.is_equal() && diff.tables.is_empty());
    assert_eq!(json!(diff.expected), json!(["row"]));
    Ok(())
}

async fn an_expected_word_that_nobody_knows_is_refused(home: Home) -> Result<()> {
    let both = Both::alike(home, wide(&[("n".into(), "int64")])).await?;
    for (word, says) in [
        ("rwo.n", "neither generation has `rwo.n`: did you mean `row.n`?"),
        ("rows", "neither generation has `rows`: did you mean `row`?"),
        ("zzz", "neither generation has `zzz`"),
        ("row.id", "`row.id` is a column of the key"),
    ] {
        let refused = both.try_diff(&[word], 1).await;
        let is_it = matches!(&refused, Err(StoreError::Refused(Refusal::UnknownDifference(message))) if message.starts_with(says));
        assert!(is_it, "{word}: {refused:?}");
    }
    for word in ["", "row.", ".n", "row.n.x", "row n"] {
        assert!(Expected::parse(&[word.to_owned()]).is_err(), "{word}");
    }
    Ok(())
}

async fn a_table_with_another_key_and_one_that_is_gone_are_differences(home: Home) -> Result<()> {
    let tables = |key: Json, second: &str| {
        let column = |name: &str| json!({"name": name, "type": "int64"});
        descriptor(
            json!([
                {"name": "row", "key": key, "columns": [column("id"), column("n")]},
                {"name": second, "key": ["id"], "columns": [column("id")]},
            ]),
            json!([
                {"name": "put", "table": "row", "kind": "insert-once", "set": if key == json!(["id"]) { json!([{"column": "n"}]) } else { json!([]) }},
                {"name": "add", "table": second, "kind": "insert-once"},
            ]),
            json!([]),
        )
    };
    let both = Both::of(home, tables(json!(["id"]), "past"), tables(json!(["id", "n"]), "future")).await?;
    both.write(&[numeric(0, &[1, 1])], &[numeric(0, &[1, 1])]).await?;
    let diff = both.diff().await?;
    let table = only(&diff.tables);
    let reason = table.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("its key was (id int64) and is (id int64, n int64)"), "{reason}");
    assert!(!table.is_equal() && counts(table) == [0; 5]);
    assert_eq!(
        (&*diff.tables_only_in_old, &*diff.tables_only_in_new),
        (&["past".into()][..], &["future".into()][..])
    );
    assert!(!both.try_diff(&["row", "past"], 1).await?.is_equal(), "`future` was not expected");
    assert!(!both.try_diff(&["past", "future"], 1).await?.is_equal(), "`row` was not expected");
    assert!(both.try_diff(&["row", "past", "future"], 1).await?.is_equal());
    Ok(())
}

async fn what_waits_is_listed_apart(home: Home) -> Result<()> {
    let both = Both::alike(home, wide(&[("n".into(), "int64")])).await?;
    let [old, new] = [&both.old, &both.new].map(|one| one.deployment.generation.id);
    let sql = |schema: &str, now: &str, key: &str| {
        let letter =
            |offset: i64| format!("({old}, 't', 0, {offset}, {key}, '[]', 'd', 'trap', 'trap', '', {now})");
        format!(
            "insert into {schema}dead_letter
               (generation_id, topic, partition, \"offset\", key, headers, digest, kind, code, detail, died_at)
             values {}, {}, {};
             insert into {schema}parked (generation_id, key_id, topic, partition, \"offset\", headers, parked_at)
             values ({new}, {key}, 't', 1, 7, '[]', {now})",
            letter(3),
            letter(4),
            letter(5)
        )
    };
    let postgres = sql("projector.", "now()", "'C-1'");
    both.home.by_hand(&postgres, &sql("projector_", "0", "x'432d31'")).await?;
    let diff = both.try_diff(&[], 2).await?;
    assert!(diff.is_equal(), "rows are what is compared");
    assert_eq!(
        serde_json::to_value(&diff.waiting)?,
        json!([
            {"dead_letters": {"events": 3, "samples": [
                {"position": "t/0@3", "key": "C-1"}, {"position": "t/0@4", "key": "C-1"}]},
             "parked": {"events": 0, "samples": []}},
            {"dead_letters": {"events": 0, "samples": []},
             "parked": {"events": 1, "samples": [{"position": "t/1@7", "key": null}]}},
        ])
    );
    Ok(())
}

async fn a_snapshot_stays_as_it_was_and_keeps_no_writer_waiting(home: Home) -> Result<()> {
    let both = Both::alike(home, wide(&[("n".into(), "int64")])).await?;
    both.write(&[numeric(0, &[1, 1])], &[numeric(0, &[1, 1])]).await?;
    let mut snapshot = both.old.store.snapshot().await?;
    // All of the store's own connections are in use, and it is written to.
    let open = both.old.begin().await?;
    let expected = Expected::default();
    let (old, new) = (&both.old.deployment, &both.new.deployment);
    let request = DiffRequest {
        old: (&old.generation, &old.contract),
        new: (&new.generation, &new.contract),
        expected: &expected,
        samples: 1,
    };
    assert!(snapshot.diff(&request).await?.is_equal());
    drop(open);
    both.new.write(&[vec![numeric(0, &[1, 2]), numeric(0, &[2, 2])]]).await?;
    for generation in [&old.generation, &new.generation] {
        assert_eq!(snapshot.checkpoints(generation).await?, [(partition(), 1)]);
    }
    assert!(snapshot.diff(&request).await?.is_equal());
    drop(snapshot);
    let mut snapshot = both.old.store.snapshot().await?;
    assert_eq!(snapshot.checkpoints(&new.generation).await?, [(partition(), 2)]);
    assert!(!snapshot.diff(&request).await?.is_equal());
    Ok(())
}

/// A view in a table's place tells what the session that reads it is set to.
#[tokio::test]
async fn no_timeout_of_postgres_ends_a_snapshot() -> Result<()> {
    let both = Both::alike(Home::postgres()?, wide(&[("t".into(), "text")])).await?;
    let view = "alter table some_orders_g1.row rename to hidden;
        create view some_orders_g1.row as select 1::int8 as id, concat_ws(' ', current_setting('statement_timeout'),
          current_setting('idle_in_transaction_session_timeout'),
          current_setting('client_connection_check_interval')) collate \"C\" as t";
    both.home.by_hand(view, "").await?;
    both.new.write(&[vec![put(1, [Value::Null])]]).await?;
    let diff = both.diff().await?;
    assert_eq!(only(&diff.tables[0].samples).columns["t"], [json!("0 0 5s"), Json::Null]);
    Ok(())
}

async fn the_widest_table_is_compared(home: Home) -> Result<()> {
    let columns: Vec<_> = (1..500).map(|at| (format!("c{at}"), "int64")).collect();
    let both = Both::alike(home, wide(&columns)).await?;
    let row = |last: i64| put(1, (1..500).map(|at| Value::Int64(if at == 499 { last } else { 0 })));
    both.write(&[row(1)], &[row(2)]).await?;
    let diff = both.diff().await?;
    assert_eq!(by_column(only(&diff.tables)), [("c499", 1)]);
    assert_eq!(only(&diff.tables[0].samples).columns["c499"], [json!(1), json!(2)]);
    Ok(())
}

const MANY: i64 = 200_000;

/// Alone, and with `--nocapture`, it tells what the process held at most, before and after.
async fn many_rows_are_compared_where_they_are(home: Home) -> Result<()> {
    let both = Both::alike(home, wide(&[("n".into(), "int64"), ("t".into(), "text")])).await?;
    both.by_hand(
        "row",
        &format!(
            "with recursive ids(id) as (select 1 union all select id + 1 from ids where id < {MANY})
             insert into {{}} (id, n, t) select id, id * 7, 'some text that makes a row as wide as rows are ' || id from ids"
        ),
    )
    .await?;
    let one = |name: String| {
        format!(
            "update {name} set n = 0 where id % 50000 = 1; update {name} set n = null, t = '' where id = 77; delete from {name} where id % 100000 = 5"
        )
    };
    both.home.by_hand(&one("some_orders_new_g1.row".into()), &one("some_orders_new_g1__row".into())).await?;
    let before = peak_memory();
    let diff = both.diff().await?;
    println!("memory at most, before and after: {before:?} {:?}", peak_memory());
    let table = only(&diff.tables);
    assert_eq!(counts(table), [MANY, MANY - 2, 2, 0, 5]);
    assert_eq!(by_column(table), [("n", 5), ("t", 1)]);
    assert_eq!(table.samples.len(), 7);
    Ok(())
}

fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix("VmHWM:")?.trim().to_owned()))
}

/// Rows by their key, as they are compared.
type Rows = BTreeMap<(String, i64), Vec<Option<String>>>;

async fn any_tables_differ_as_a_comparison_in_memory_says(home: Home) -> Result<()> {
    let columns = ["int64", "text", "float64", "decimal(20,2)", "json", "bytes", "boolean", "timestamp"];
    let mut declared = vec![json!({"name": "a", "type": "text"}), json!({"name": "b", "type": "int64"})];
    let named = |at: usize| format!("c{at}");
    declared.extend(
        columns.iter().enumerate().map(|(at, ty)| json!({"name": named(at), "type": ty, "nullable": true})),
    );
    declared.push(json!({"name": "version", "type": "int64"}));
    let mut set: Vec<_> = (0..columns.len()).map(|at| json!({"column": named(at)})).collect();
    set.push(json!({"column": "version"}));
    let both = Both::alike(
        home,
        descriptor(
            json!([{"name": "row", "key": ["a", "b"], "columns": declared}]),
            json!([
                {"name": "put", "table": "row", "kind": "upsert", "set": set},
                {"name": "bury", "table": "row", "kind": "delete", "by": ["a", "b"], "guard": "version"},
            ]),
            json!([]),
        ),
    )
    .await?;
    let seed: u64 = rand::rng().random();
    println!("seed: {seed}");
    let dice = &mut StdRng::seed_from_u64(seed);
    for round in 0..40 {
        both.by_hand("row", "delete from {}").await?;
        let mut sides = [Rows::new(), Rows::new()];
        for (rows, projection) in sides.iter_mut().zip([&both.old, &both.new]) {
            let mut changes = Vec::new();
            for _ in 0..dice.random_range(0..16) {
                let key = (["", "a", "é"].choose(dice).map_or("", |key| *key), dice.random_range(0..3));
                let by = [text(key.0), Value::Int64(key.1)];
                if dice.random_range(0..5) == 0 {
                    changes.push(call(1, by.into_iter().chain([Value::Int64(1)])));
                    rows.remove(&(key.0.to_owned(), key.1));
                    continue;
                }
                let chosen: Vec<_> = columns
                    .iter()
                    .map(|ty| {
                        let value = &values(ty)[usize::from(dice.random_range(0..4) == 0)].0;
                        if dice.random_range(0..6) == 0 { Value::Null } else { value.clone() }
                    })
                    .chain([Value::Int64(1)])
                    .collect();
                let shown = |value: &Value| (!value.is_null()).then(|| value.to_string());
                rows.insert((key.0.to_owned(), key.1), chosen.iter().map(shown).collect());
                changes.push(call(0, by.into_iter().chain(chosen)));
            }
            projection.write(&[changes]).await?;
        }
        let [old, new] = &sides;
        let diff = both.try_diff(&[], 100).await?;
        let table = only(&diff.tables);
        let lacks =
            |one: &Rows, other: &Rows| one.keys().filter(|key| !other.contains_key(*key)).count() as i64;
        let pairs: Vec<_> = old.iter().filter_map(|(key, row)| Some((key, row, new.get(key)?))).collect();
        let mut by_column: BTreeMap<String, i64> = BTreeMap::new();
        for (_, old, new) in &pairs {
            for at in (0..columns.len()).filter(|at| old[*at] != new[*at]) {
                *by_column.entry(named(at)).or_default() += 1;
            }
        }
        let differing: BTreeSet<_> =
            pairs.iter().filter(|(_, old, new)| old != new).map(|(key, ..)| *key).collect();
        let counted =
            [old.len() as i64, new.len() as i64, lacks(old, new), lacks(new, old), differing.len() as i64];
        assert_eq!(counts(table), counted, "seed {seed}, round {round}: {old:#?} {new:#?}");
        assert_eq!(table.by_column, by_column, "seed {seed}, round {round}: {old:#?} {new:#?}");
        assert_eq!(diff.is_equal(), old == new, "seed {seed}, round {round}");
        let shown: i64 = table.samples.iter().map(|sample| sample.columns.len() as i64).sum();
        assert_eq!(shown, by_column.values().sum::<i64>(), "seed {seed}, round {round}");
        let keys: BTreeSet<_> = table.samples.iter().map(|sample| json!(sample.key).to_string()).collect();
        assert_eq!(keys.len() as i64, counted[2] + counted[3] + counted[4], "seed {seed}, round {round}");
    }
    Ok(())
}
