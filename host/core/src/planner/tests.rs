//! The planner held against the model: steps executed set-wise give the rows of the changes one
//! by one, and in tables with lineage their last writers.

use std::collections::BTreeMap;

use projector_model::change::codes;
use projector_model::interpret::Row as StoredRow;
use projector_model::{Descriptor, Rejection, Tables};
use proptest::prelude::*;

use super::*;

// The stores' contract tests throw the same dice.
#[path = "../../../../tests/it/store/random.rs"]
mod random;

/// An event: its batch, and its place in that.
type Event = (usize, usize);

/// The stored rows; in tables with lineage, with the event that wrote each last.
type Rows = BTreeMap<(usize, Vec<Value>), (StoredRow, Option<Event>)>;

/// The changes one by one.
struct Model {
    tables: Tables,
    /// Of rows in tables without lineage and of rows that are gone as well.
    writers: BTreeMap<(usize, Vec<Value>), Event>,
}

impl Model {
    fn new(contract: &Contract) -> Self {
        Self { tables: Tables::new(contract), writers: BTreeMap::new() }
    }

    fn apply(&mut self, contract: &Contract, event: Event, changes: &[Change]) -> Result<(), Rejection> {
        let mark = self.tables.mark();
        self.tables.apply_event(contract, changes)?;
        let written = self.tables.changed_since(mark);
        self.writers.extend(written.map(|(table, key)| ((table, key.clone()), event)));
        Ok(())
    }

    fn rows(&self, contract: &Contract) -> Rows {
        let mut rows = Rows::new();
        for (table, declared) in contract.tables.iter().enumerate() {
            for (key, row) in self.tables.rows(table) {
                let place = (table, key.clone());
                let writer = declared.has_lineage.then(|| self.writers[&place]);
                rows.insert(place, (row.clone(), writer));
            }
        }
        rows
    }
}

fn load(contract: &Contract, rows: &Rows) -> Tables {
    let mut tables = Tables::new(contract);
    rows.iter().for_each(|((table, _), (row, _))| tables.load(contract, *table, row.clone()));
    tables
}

/// A step that a database refuses, and the event that caused the refusal, if it is known.
type Refused = (Option<usize>, Rejection);

/// Executes a step as a database does: each of its rows sees what was stored before the step, and
/// no two of them touch the same stored row.
fn execute(contract: &Contract, stored: &mut Rows, batch: usize, step: &Step) -> Result<(), Refused> {
    let mut touched = BTreeMap::new();
    for row in &step.rows {
        let mut seen = load(contract, stored);
        let change = Change { statement: step.statement, arguments: row.arguments.clone() };
        seen.apply(contract, &change).map_err(|rejection| {
            // A sum that overflows may be that of several events.
            let named = rejection.code == codes::MISSED || step.changes == 1;
            (named.then_some(row.event), rejection)
        })?;
        for (table, key) in seen.changed() {
            let writer = contract.tables[table].has_lineage.then_some((batch, row.writer));
            let written = seen.row(table, key).map(|row| (row.clone(), writer));
            let before = touched.insert((table, key.clone()), written);
            assert!(before.is_none(), "two rows of a step touch {key:?}: {step:?}");
        }
    }
    for (key, row) in touched {
        match row {
            Some(row) => stored.insert(key, row),
            None => stored.remove(&key),
        };
    }
    Ok(())
}

fn execute_all(contract: &Contract, stored: &mut Rows, batch: usize, steps: &[Step]) -> Result<(), Refused> {
    steps.iter().try_for_each(|step| execute(contract, stored, batch, step))
}

fn plan_events<E: AsRef<[Change]>>(contract: &Contract, events: &[(usize, E)]) -> Vec<Step> {
    plan(
        contract,
        &Rules::of(contract),
        events.iter().flat_map(|(at, changes)| changes.as_ref().iter().map(|change| (*at, change))),
    )
}

fn contract_of(dice: &random::Dice) -> Contract {
    random::descriptor("p", &mut dice.throws()).check().expect("a sound descriptor")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn steps_give_the_rows_of_the_changes_one_by_one((dice, batches) in random::numbers(3, 12)) {
        let contract = contract_of(&dice);
        let mut model = Model::new(&contract);
        let mut stored = Rows::new();
        for (number, batch) in batches.iter().enumerate() {
            let events = batch.iter().map(|dice| random::event(&contract, dice)).enumerate();
            let accepted: Vec<(usize, Vec<Change>)> =
                events.filter(|(at, changes)| model.apply(&contract, (number, *at), changes).is_ok()).collect();
            let steps = plan_events(&contract, &accepted);
            prop_assert_eq!(execute_all(&contract, &mut stored, number, &steps), Ok(()), "{:#?}", steps);
            prop_assert_eq!(&stored, &model.rows(&contract), "{:?} {:?}", contract.writes, steps);

            let changes: usize = accepted.iter().map(|(_, changes)| changes.len()).sum();
            prop_assert_eq!(steps.iter().map(|step| step.changes).sum::<u64>(), changes as u64);
            for step in &steps {
                let write = &contract.writes[usize::from(step.statement)];
                let selected = |row: &Row| pending::selection(&contract, write, &row.arguments);
                let sorted = step.rows.windows(2).all(|two| selected(&two[0]) < selected(&two[1]));
                prop_assert!(sorted, "sorted, each key once: {:?}", step);
            }
        }
    }

    #[test]
    fn a_batch_is_refused_if_and_only_if_the_model_rejects_one_of_its_events(
        (dice, batches) in random::numbers(2, 8)
    ) {
        let contract = contract_of(&dice);
        let mut model = Model::new(&contract);
        for (number, batch) in batches.iter().enumerate() {
            let mut stored = model.rows(&contract);
            let events: Vec<(usize, Vec<Change>)> =
                batch.iter().map(|dice| random::event(&contract, dice)).enumerate().collect();
            let rejected: Vec<usize> = events
                .iter()
                .filter(|(at, changes)| model.apply(&contract, (number, *at), changes).is_err())
                .map(|(at, _)| *at)
                .collect();
            let steps = plan_events(&contract, &events);
            match execute_all(&contract, &mut stored, number, &steps) {
                Ok(()) => prop_assert!(rejected.is_empty(), "{:?} went through: {:#?}", rejected, steps),
                // Nothing stood before the first event: what refuses it is its own fault.
                Err((Some(0), rejection)) => prop_assert_eq!(rejected.first(), Some(&0), "{} {:#?}", rejection, steps),
                Err((_, rejection)) => prop_assert!(!rejected.is_empty(), "{} {:#?}", rejection, steps),
            }
        }
    }
}

fn contract() -> Contract {
    let table = |name: &str| {
        serde_json::json!({
            "name": name, "key": ["id"], "indexes": [{"columns": ["grp"]}],
            "columns": [
                {"name": "id", "type": "int64"}, {"name": "grp", "type": "text", "nullable": true},
                {"name": "n", "type": "int64", "nullable": true}, {"name": "v", "type": "int64", "nullable": true}],
        })
    };
    let json = serde_json::json!({
        "name": "p", "version": "1", "topics": [{"name": "t"}],
        "tables": [table("a"), table("b")],
        "statements": [
            {"name": "add", "table": "a", "kind": "upsert", "set": [{"column": "n", "operation": "add"}]},
            {"name": "put", "table": "a", "kind": "upsert", "set": [{"column": "n"}, {"column": "v"}], "guard": "v"},
            {"name": "count", "table": "a", "kind": "upsert", "guard": "v",
             "set": [{"column": "n", "operation": "add"}, {"column": "v"}]},
            {"name": "move", "table": "a", "kind": "update", "by": ["grp"], "set": [{"column": "grp"}]},
            {"name": "erase", "table": "a", "kind": "delete", "by": ["id"], "on-miss": "reject"},
            {"name": "other", "table": "b", "kind": "upsert", "set": [{"column": "n"}]},
        ],
    });
    Descriptor::from_json(&json.to_string()).and_then(Descriptor::check).expect("a sound descriptor")
}

const ADD: u16 = 0;
const PUT: u16 = 1;
const COUNT: u16 = 2;
const MOVE: u16 = 3;
const ERASE: u16 = 4;
const OTHER: u16 = 5;

fn call(statement: u16, arguments: &[i64]) -> Change {
    Change { statement, arguments: arguments.iter().copied().map(Value::Int64).collect() }
}

/// A row's arguments, and the event that it is ascribed to.
type Ascribed = (Vec<Value>, usize);

/// Plans these changes, an event each: by step, its statement and its rows.
fn planned(changes: &[Change]) -> Vec<(u16, Vec<Ascribed>)> {
    plan(&contract(), &Rules::of(&contract()), changes.iter().enumerate())
        .into_iter()
        .map(|step| (step.statement, step.rows.into_iter().map(|row| (row.arguments, row.event)).collect()))
        .collect()
}

fn row(arguments: &[i64], event: usize) -> Ascribed {
    (call(0, arguments).arguments, event)
}

#[test]
fn repeated_keys_become_one_row_of_a_sorted_step() {
    let steps = planned(&[call(ADD, &[7, 1]), call(ADD, &[3, 5]), call(ADD, &[7, 2])]);
    assert_eq!(steps, [(ADD, vec![row(&[3, 5], 1), row(&[7, 3], 0)])]);
}

/// Lanes share their tables only as long as each locks rows by key, table by table.
#[test]
fn one_insert_a_table_locks_in_order_and_no_more() {
    let locks = |changes: &[Change]| {
        let contract = contract();
        let events: Vec<_> = changes.iter().map(std::slice::from_ref).enumerate().collect();
        locks_in_order(&contract, &plan_events(&contract, &events))
    };
    assert!(locks(&[]));
    assert!(locks(&[call(ADD, &[7, 1]), call(ADD, &[3, 1]), call(ADD, &[7, 1])]));
    assert!(locks(&[call(ADD, &[7, 1]), call(OTHER, &[9, 1]), call(ADD, &[3, 1])]), "another table");
    assert!(!locks(&[call(ADD, &[7, 1]), call(PUT, &[3, 9, 1])]), "two statements of a table");
    assert!(locks(&[call(ERASE, &[7])]), "one row");
    assert!(!locks(&[call(ERASE, &[7]), call(ERASE, &[3])]), "rows of a delete are locked as they are found");
}

#[test]
fn another_statement_of_the_same_table_ends_a_run_and_one_of_another_table_does_not() {
    let steps =
        planned(&[call(ADD, &[1, 1]), call(OTHER, &[1, 1]), call(ADD, &[1, 1]), call(PUT, &[1, 9, 1])]);
    assert_eq!(
        steps,
        [(ADD, vec![row(&[1, 2], 0)]), (PUT, vec![row(&[1, 9, 1], 3)]), (OTHER, vec![row(&[1, 1], 1)])]
    );
}

#[test]
fn of_guarded_sets_the_highest_version_is_left_and_of_equals_the_last() {
    let steps = planned(&[
        call(PUT, &[1, 10, 5]),
        call(PUT, &[1, 20, 7]),
        call(PUT, &[1, 30, 6]),
        call(PUT, &[1, 40, 7]),
    ]);
    assert_eq!(steps, [(PUT, vec![row(&[1, 40, 7], 0)])]);
}

#[test]
fn what_could_come_out_otherwise_is_not_folded() {
    let apart = |changes: &[Change]| planned(changes).len();
    // A sum that goes up and comes down again may leave the range half way.
    assert_eq!(apart(&[call(ADD, &[1, 5]), call(ADD, &[1, -5])]), 2);
    assert_eq!(apart(&[call(ADD, &[1, i64::MAX]), call(ADD, &[1, 1])]), 2);
    // A guard may let only one of two sums pass.
    assert_eq!(apart(&[call(COUNT, &[1, 1, 1]), call(COUNT, &[1, 1, 2])]), 2);
    // The second delete finds nothing any more, which rejects its event.
    assert_eq!(apart(&[call(ERASE, &[1]), call(ERASE, &[1])]), 2);
    // Which rows are moved depends on those that were moved before.
    let text = |from: &str, to: &str| Change {
        statement: MOVE,
        arguments: [from, to].map(|t| Value::Text(t.into())).into(),
    };
    assert_eq!(apart(&[text("a", "b"), text("b", "c")]), 2);
}

/// A shop's orders, and rows with versions beside them.
mod examples {
    use super::*;

    const PUT: u16 = 0;
    const MOVE: u16 = 1;
    const LABEL: u16 = 2;
    const OF_CUSTOMER: u16 = 3;
    const DELETE: u16 = 4;
    const MORE: u16 = 5;
    const ONCE: u16 = 6;
    const ADD: u16 = 7;
    const VERSIONED: u16 = 8;
    const BURY: u16 = 9;
    const HEARD: u16 = 10;

    fn contract(lineage: bool) -> Contract {
        let column = |name: &str, ty: &str| serde_json::json!({"name": name, "type": ty, "nullable": true});
        let id = serde_json::json!({"name": "id", "type": "int64"});
        let set = |columns: &[&str]| -> Vec<_> {
            columns.iter().map(|column| serde_json::json!({"column": column})).collect()
        };
        let json = serde_json::json!({
            "name": "p", "version": "1", "topics": [{"name": "t"}],
            "tables": [
                {"name": "orders", "key": ["id"], "indexes": [{"columns": ["customer"]}], "lineage": lineage,
                 "columns": [id, column("customer", "text"), column("country", "text"), column("n", "int64")]},
                {"name": "versions", "key": ["id"], "lineage": lineage,
                 "columns": [id, column("x", "text"), column("v", "int64")]},
                {"name": "customers", "key": ["id"], "columns": [id, column("country", "text")]},
            ],
            "statements": [
                {"name": "put", "table": "orders", "kind": "upsert", "set": set(&["customer", "country", "n"])},
                {"name": "move", "table": "orders", "kind": "upsert", "set": set(&["customer"])},
                {"name": "label", "table": "orders", "kind": "upsert", "set": set(&["country"])},
                {"name": "of-customer", "table": "orders", "kind": "update", "by": ["customer"],
                 "set": set(&["country"])},
                {"name": "delete", "table": "orders", "kind": "delete", "by": ["id"]},
                {"name": "more", "table": "orders", "kind": "update", "by": ["id"],
                 "set": [{"column": "n", "operation": "add"}]},
                {"name": "once", "table": "orders", "kind": "insert-once", "set": set(&["customer", "country"])},
                {"name": "add", "table": "orders", "kind": "upsert", "set": [{"column": "n", "operation": "add"}]},
                {"name": "versioned", "table": "versions", "kind": "upsert", "set": set(&["x", "v"]), "guard": "v"},
                {"name": "bury", "table": "versions", "kind": "delete", "by": ["id"], "guard": "v"},
                {"name": "heard", "table": "customers", "kind": "upsert", "set": set(&["country"])},
            ],
        });
        Descriptor::from_json(&json.to_string()).and_then(Descriptor::check).expect("a sound descriptor")
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn call(statement: u16, arguments: &[Value]) -> Change {
        Change { statement, arguments: arguments.to_vec() }
    }

    fn put(id: i64, customer: &str, country: &str, n: i64) -> Change {
        call(PUT, &[Value::Int64(id), text(customer), text(country), Value::Int64(n)])
    }

    fn of_customer(customer: &str, country: &str) -> Change {
        call(OF_CUSTOMER, &[text(customer), text(country)])
    }

    /// `id`, then texts.
    fn partial(statement: u16, id: i64, texts: &[&str]) -> Change {
        let texts = texts.iter().map(|one| text(one));
        Change { statement, arguments: std::iter::once(Value::Int64(id)).chain(texts).collect() }
    }

    fn numbers(statement: u16, numbers: &[i64]) -> Change {
        Change { statement, arguments: numbers.iter().copied().map(Value::Int64).collect() }
    }

    fn versioned(id: i64, x: &str, v: i64) -> Change {
        call(VERSIONED, &[Value::Int64(id), text(x), Value::Int64(v)])
    }

    /// How many steps these changes take, an event each, on these rows; they end as the model's.
    #[track_caller]
    fn steps(stored: &[Change], changes: &[Change]) -> usize {
        steps_of(&contract(false), stored, changes)
    }

    /// The same, and the rows end with the model's last writers.
    #[track_caller]
    fn steps_with_lineage(stored: &[Change], changes: &[Change]) -> usize {
        steps_of(&contract(true), stored, changes)
    }

    #[track_caller]
    fn steps_of(contract: &Contract, stored: &[Change], changes: &[Change]) -> usize {
        let mut model = Model::new(contract);
        let apply = |model: &mut Model, batch, changes: &[Change]| {
            for (at, change) in changes.iter().enumerate() {
                assert_eq!(model.apply(contract, (batch, at), std::slice::from_ref(change)), Ok(()));
            }
        };
        apply(&mut model, 0, stored);
        let mut executed = model.rows(contract);
        apply(&mut model, 1, changes);
        let steps = plan(contract, &Rules::of(contract), changes.iter().enumerate());
        assert_eq!(execute_all(contract, &mut executed, 1, &steps), Ok(()), "{steps:#?}");
        assert_eq!(executed, model.rows(contract), "{steps:#?}");
        steps.len()
    }

    #[test]
    fn what_must_keep_its_order_keeps_it() {
        // A delete, then an upsert of some columns: the others must be null.
        assert_eq!(steps(&[put(1, "c1", "DE", 9)], &[numbers(DELETE, &[1]), partial(LABEL, 1, &["FR"])]), 2);
        // An update finds no row to add to; the upsert after it makes one.
        assert_eq!(steps(&[], &[numbers(MORE, &[1, 5]), numbers(ADD, &[1, 7])]), 2);
        // The order went to another customer before the first one's country changed; and stayed.
        let moved = [partial(MOVE, 1, &["c2"]), of_customer("c1", "FR")];
        assert_eq!(steps(&[put(1, "c1", "DE", 9)], &moved), 2);
        assert_eq!(steps(&[put(1, "c2", "DE", 9)], &moved), 2);
        // Nobody knows whose order it is that is labelled.
        assert_eq!(
            steps(&[put(1, "c1", "DE", 9)], &[partial(LABEL, 1, &["XX"]), of_customer("c1", "FR")]),
            2
        );
        assert_eq!(steps(&[], &[partial(ONCE, 1, &["c1", "DE"]), put(1, "c2", "FR", 1)]), 2);
        assert_eq!(
            steps(&[put(3, "c", "DE", 0)], &[partial(ONCE, 3, &["c1", "DE"]), put(3, "c2", "FR", 1)]),
            2
        );
        // Up, then down again, next to the end of the range.
        assert_eq!(
            steps(&[numbers(ADD, &[1, i64::MAX - 9])], &[numbers(ADD, &[1, 5]), numbers(ADD, &[1, -5])]),
            2
        );
    }

    #[test]
    fn versions_decide_whatever_is_stored_between_them() {
        for stored in [4, 5, 6, 7, 8] {
            let stored = [versioned(1, "stored", stored)];
            assert_eq!(
                steps(&stored, &[versioned(1, "a", 5), versioned(1, "b", 7), versioned(1, "c", 6)]),
                1
            );
            assert_eq!(steps(&stored, &[versioned(1, "a", 6), versioned(1, "b", 6)]), 1);
            // What is buried stays so, unless something newer comes.
            assert_eq!(steps(&stored, &[numbers(BURY, &[1, 7]), versioned(1, "late", 6)]), 2);
            assert_eq!(steps(&stored, &[numbers(BURY, &[1, 7]), versioned(1, "new", 7)]), 2);
        }
    }

    #[test]
    fn keys_that_swap_their_values_share_a_step() {
        let stored = [put(1, "c1", "DE", 1), put(2, "c2", "FR", 2)];
        assert_eq!(steps(&stored, &[put(1, "c2", "FR", 2), put(2, "c1", "DE", 1), put(1, "c3", "IT", 3)]), 1);
        // One key twice, which `update … from` would write only once.
        assert_eq!(
            steps(&stored, &[numbers(MORE, &[1, 5]), numbers(MORE, &[1, 6]), numbers(MORE, &[2, 1])]),
            1
        );
    }

    #[test]
    fn a_customers_change_is_written_into_pending_orders_and_ahead_of_them() {
        let stored = [put(1, "c1", "DE", 1), put(2, "c1", "DE", 2), put(3, "c2", "FR", 3)];
        let batch = [
            // A pending order of the customer, one that leaves it, one that comes to it afterwards.
            put(4, "c1", "DE", 4),
            put(1, "c2", "NL", 1),
            of_customer("c1", "IT"),
            put(3, "c1", "DE", 3),
            of_customer("c2", "ES"),
            put(4, "c2", "PT", 5),
            of_customer("c1", "GB"),
        ];
        assert_eq!(steps(&stored, &batch), 2);
        // So does a batch that begins with the change, whosever order comes next.
        let batch =
            [of_customer("c1", "IT"), put(5, "c2", "DE", 5), put(6, "c1", "DE", 6), put(7, "c3", "DE", 7)];
        assert_eq!(steps(&stored, &batch), 2);
        // A row that is there already is not inserted; one that is not takes the change with it.
        let once =
            [partial(ONCE, 1, &["c1", "DE"]), partial(ONCE, 9, &["c1", "DE"]), of_customer("c1", "IT")];
        assert_eq!(steps(&[put(1, "c2", "FR", 1)], &once), 2);
    }

    #[test]
    fn with_lineage_two_statements_that_may_write_one_row_keep_their_order() {
        let stored = [put(1, "c1", "DE", 1), put(2, "c2", "FR", 2)];
        // Different columns of one row: whichever wrote last is its writer.
        let one_row = [partial(LABEL, 1, &["FR"]), partial(MOVE, 1, &["c2"]), partial(LABEL, 1, &["IT"])];
        assert_eq!((steps(&stored, &one_row), steps_with_lineage(&stored, &one_row)), (2, 3));
        let other_rows = [partial(LABEL, 1, &["FR"]), partial(MOVE, 2, &["c2"]), partial(LABEL, 3, &["IT"])];
        assert_eq!((steps(&stored, &other_rows), steps_with_lineage(&stored, &other_rows)), (2, 2));
        // The orders of a customer, and one that may be among them.
        let updates = [of_customer("c1", "FR"), numbers(MORE, &[1, 5]), of_customer("c1", "IT")];
        assert_eq!((steps(&stored, &updates), steps_with_lineage(&stored, &updates)), (2, 3));
    }

    #[test]
    fn with_lineage_what_folds_keeps_the_event_that_wrote_last() {
        let stored = [put(1, "c1", "DE", 1), versioned(1, "stored", 6)];
        for changes in [
            // The last of all, although nothing is added.
            &[numbers(ADD, &[1, 5]), numbers(ADD, &[1, 6]), numbers(ADD, &[1, 0])][..],
            // The first of all, if it writes at all.
            &[partial(ONCE, 1, &["c1", "DE"]), partial(ONCE, 1, &["c2", "DE"])],
            &[partial(ONCE, 2, &["c1", "DE"]), partial(ONCE, 2, &["c2", "DE"])],
            // Among equals the last, among others the highest; none, if what is stored is newer.
            &[versioned(1, "a", 7), versioned(1, "b", 7), versioned(1, "c", 6)],
            &[versioned(1, "a", 4), versioned(1, "b", 5)],
            // A tombstone is its delete's.
            &[numbers(BURY, &[1, 8]), numbers(BURY, &[1, 9]), numbers(BURY, &[1, 7])],
        ] {
            assert_eq!(steps_with_lineage(&stored, changes), 1, "{changes:?}");
        }
    }

    #[test]
    fn with_lineage_an_update_that_is_written_into_a_pending_row_is_its_writer() {
        let stored = [put(1, "c1", "DE", 1), put(2, "c2", "FR", 2)];
        let batch = [
            // Written into the one; ahead of the other, which is written again after it.
            put(4, "c1", "DE", 4),
            of_customer("c1", "IT"),
            put(1, "c1", "NL", 1),
            // The order leaves the customer before the next change of the customer.
            put(4, "c3", "DE", 4),
            of_customer("c1", "ES"),
        ];
        assert_eq!(steps_with_lineage(&stored, &batch), 2);
        // Of rows that are there, an insert-once writes none; the update does.
        let once =
            [partial(ONCE, 1, &["c1", "DE"]), partial(ONCE, 9, &["c1", "DE"]), of_customer("c1", "IT")];
        assert_eq!(steps_with_lineage(&stored, &once), 2);
    }

    /// 95 orders to 5 customers' changes, in a batch of 1,000.
    #[test]
    fn a_mix_of_orders_and_changes_takes_a_statement_of_each_kind() {
        let event = |at: i64| match at % 20 {
            19 => vec![
                partial(HEARD, at % 37, &["IT"]),
                of_customer(&format!("c{}", at % 37), if at % 2 == 0 { "IT" } else { "DE" }),
            ],
            _ => vec![put(at % 701, &format!("c{}", at % 41), "FR", at)],
        };
        let changes: Vec<Change> = (0..1_000).flat_map(event).collect();
        assert_eq!((steps(&[], &changes), steps_with_lineage(&[], &changes)), (3, 3));
    }
}
