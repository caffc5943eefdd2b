use super::*;
use crate::Descriptor;

fn contract() -> Contract {
    let json = serde_json::json!({
        "name": "t", "version": "1",
        "topics": [{"name": "t"}],
        "tables": [{
            "name": "t", "key": ["id"], "indexes": [{"columns": ["grp"]}],
            "columns": [
                {"name": "id", "type": "int64"}, {"name": "grp", "type": "text", "nullable": true},
                {"name": "n", "type": "int64", "nullable": true}, {"name": "v", "type": "int64", "nullable": true},
            ],
        }],
        "statements": [
            {"name": "count", "table": "t", "kind": "upsert", "set": [{"column": "n", "operation": "add"}]},
            {"name": "put", "table": "t", "kind": "upsert", "set": [{"column": "grp"}, {"column": "v"}], "guard": "v"},
            {"name": "once", "table": "t", "kind": "insert-once", "set": [{"column": "grp"}]},
            {"name": "group", "table": "t", "kind": "update", "by": ["grp"], "set": [{"column": "n"}], "on-miss": "reject"},
            {"name": "drop", "table": "t", "kind": "delete", "by": ["id"], "guard": "v"},
            {"name": "erase", "table": "t", "kind": "delete", "by": ["grp"]},
        ],
    });
    Descriptor::from_json(&json.to_string()).and_then(Descriptor::check).expect("a sound descriptor")
}

fn call(statement: u16, arguments: &[Value]) -> Change {
    Change { statement, arguments: arguments.to_vec() }
}

fn int(number: i64) -> Value {
    Value::Int64(number)
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn dump(tables: &Tables) -> Vec<(Vec<Value>, bool)> {
    tables.rows(0).map(|(_, row)| (row.values.clone(), row.tombstone)).collect()
}

#[test]
fn adding_counts_null_as_nothing_and_overflow_rejects_the_whole_event() {
    let contract = contract();
    let mut tables = Tables::new(&contract);
    tables
        .apply_event(&contract, &[call(0, &[int(1), int(i64::MAX - 5)]), call(0, &[int(1), Value::Null])])
        .unwrap();
    let before = dump(&tables);
    let rejection =
        tables.apply_event(&contract, &[call(0, &[int(2), int(1)]), call(0, &[int(1), int(6)])]).unwrap_err();
    assert_eq!(rejection.code, codes::OVERFLOW);
    assert_eq!(dump(&tables), before);
}

#[test]
fn a_lower_version_does_nothing_and_an_equal_one_wins() {
    let contract = contract();
    let mut tables = Tables::new(&contract);
    let mut put = |group: &str, version| {
        tables.apply(&contract, &call(1, &[int(1), text(group), int(version)])).unwrap()
    };
    assert_eq!((put("a", 5), put("b", 4), put("c", 5)), (1, 0, 1));
    assert_eq!(dump(&tables), [(vec![int(1), text("c"), Value::Null, int(5)], false)]);
}

#[test]
fn a_late_upsert_cannot_resurrect_what_a_guarded_delete_removed() {
    let contract = contract();
    let mut tables = Tables::new(&contract);
    for (change, touched) in [
        (call(4, &[int(1), int(7)]), 1),
        (call(1, &[int(1), text("late"), int(6)]), 0),
        (call(5, &[text("late")]), 0),
        (call(1, &[int(1), text("new"), int(8)]), 1),
    ] {
        assert_eq!(tables.apply(&contract, &change), Ok(touched), "{change:?}");
    }
    assert_eq!(dump(&tables), [(vec![int(1), text("new"), Value::Null, int(8)], false)]);
}

#[test]
fn after_forget_undo_changes_stay_and_no_previous_row_is_kept() {
    let contract = contract();
    let mut tables = Tables::new(&contract);
    tables.apply_event(&contract, &[call(2, &[int(1), text("a")]), call(2, &[int(2), text("a")])]).unwrap();
    tables.forget_undo();
    assert!(tables.journal.is_empty());
    let before = dump(&tables);
    let mark = tables.mark();
    tables.apply_event(&contract, &[call(0, &[int(3), int(1)]), call(5, &[text("a")])]).unwrap();
    let changed = |tables: &Tables| tables.changed().len();
    assert_eq!((dump(&tables).len(), changed(&tables)), (1, 3));
    tables.undo_to(mark);
    assert_eq!((dump(&tables), changed(&tables)), (before, 2));
}

#[test]
fn an_update_that_may_not_miss_rejects_its_event() {
    let contract = contract();
    let mut tables = Tables::new(&contract);
    let rejection = tables.apply(&contract, &call(3, &[text("a"), int(1)])).unwrap_err();
    assert_eq!(rejection.to_string(), "missed: group: no row of t with grp = \"a\"");
    assert_eq!(tables.apply(&contract, &call(2, &[int(1), text("a")])), Ok(1));
    assert_eq!(tables.apply(&contract, &call(2, &[int(1), text("b")])), Ok(0));
    assert_eq!(tables.apply(&contract, &call(3, &[text("a"), int(1)])), Ok(1));
}

#[test]
fn arguments_are_held_against_their_declaration() {
    let contract = contract();
    let code = |mut change: Change| contract.fit(&mut change).map_err(|rejection| rejection.code);
    assert_eq!(code(call(9, &[])), Err(codes::INVALID_CHANGE.into()));
    assert_eq!(code(call(0, &[int(1)])), Err(codes::INVALID_CHANGE.into()));
    assert_eq!(code(call(0, &[text("1"), int(1)])), Err(codes::INVALID_VALUE.into()));
    assert_eq!(code(call(0, &[Value::Null, int(1)])), Err(codes::NULL_KEY.into()));
    assert_eq!(code(call(4, &[int(1), Value::Null])), Err(codes::NULL_KEY.into()));
    assert_eq!(code(call(0, &[int(1), Value::Null])), Ok(()));
}
