//! What readers have of their views stays through deployments, as far as columns allow: rights, comments,
//! options, and what depends on them.

use anyhow::{Context, Result};
use projector::deploy::readers;
use projector_core::deployment::Origin;
use projector_core::generation::{Generation, GenerationStatus, Role};
use projector_core::layout::{Layout, Offered};
use projector_core::refusal::Refusal;
use projector_store::generations::Promoted;
use projector_store::{Requester, Store, StoreError};
use serde_json::{Value as Json, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};
use uuid::Uuid;

use super::home::{Home, Session};
use super::projection::{contract, numbers, offer, topics};

const NAME: &str = "some-orders";

fn with(change: impl FnOnce(&mut Json)) -> Json {
    let mut json = numbers();
    change(&mut json);
    json
}

fn with_note(revision: u32) -> Json {
    let note = json!({"name": "note", "type": "text", "nullable": true});
    with(|json| {
        json["revision"] = revision.into();
        json["tables"][0]["columns"].as_array_mut().expect("a list").push(note);
    })
}

async fn status(store: &dyn Store, role: Role) -> Result<GenerationStatus> {
    let generations = store.generations(NAME).await?;
    generations.into_iter().find(|status| status.role == role).context("there is none")
}

async fn promote(store: &dyn Store, generation: &Generation) -> Result<Promoted> {
    store.set_caught_up(generation).await?;
    Ok(store.promote(generation, &[], Origin::Command, &Requester::default()).await?)
}

/// A role that may read one view, and logs in as itself.
struct Reader {
    role: String,
    session: PgConnection,
}

impl Reader {
    async fn new(home: &Home) -> Result<Self> {
        let role = format!("reader_{}", Uuid::new_v4().simple());
        home.by_hand(
            &format!(
                "create role {role};
                 grant usage on schema some_orders to {role};
                 grant select on some_orders.number to {role};
                 create schema reports authorization {role}"
            ),
            "",
        )
        .await?;
        let mut session = PgConnection::connect(&home.url()).await?;
        session.execute(AssertSqlSafe(format!("set role {role}"))).await?;
        Ok(Self { role, session })
    }

    async fn sum(&mut self, relation: &str) -> Result<i64> {
        // Prepared once a session, as a driver does it.
        let sql = AssertSqlSafe(format!("select coalesce(sum(n), 0)::int8 from {relation}"));
        Ok(sqlx::query(sql).persistent(true).fetch_one(&mut self.session).await?.get(0))
    }
}

#[tokio::test]
async fn rights_and_dependants_of_readers_survive_in_place_rebuild_promote_rollback_and_retire() -> Result<()>
{
    let home = Home::postgres()?;
    let store = home.open().await?;
    offer(&*store, "one", &contract(&numbers())).await?;
    home.by_hand("insert into some_orders_g1.number values (1, 10)", "").await?;
    let mut reader = Reader::new(&home).await?;
    reader
        .session
        .execute(
            "create view reports.report as select id, n from some_orders.number;
             create materialized view reports.totals as select sum(n)::int8 as n from reports.report",
        )
        .await?;
    home.by_hand(
        "comment on view some_orders.number is 'read me';
         alter view some_orders.number set (security_barrier = true)",
        "",
    )
    .await?;
    let mut is_as_it_was = async |total: i64| -> Result<()> {
        assert_eq!(reader.sum("some_orders.number").await?, total);
        assert_eq!(reader.sum("reports.report").await?, total);
        reader.session.execute("refresh materialized view reports.totals").await?;
        assert_eq!(reader.sum("reports.totals").await?, total);
        let Session::Postgres(mut session) = home.session().await? else { unreachable!("it is Postgres") };
        let kept: (Option<String>, Option<Vec<String>>) = sqlx::query_as(
            "select obj_description(oid), reloptions from pg_class where oid = 'some_orders.number'::regclass",
        )
        .fetch_one(&mut session)
        .await?;
        assert_eq!(kept, (Some("read me".into()), Some(vec!["security_barrier=true".into()])));
        Ok(())
    };
    is_as_it_was(10).await?;
    // In place, with a column more.
    offer(&*store, "two", &contract(&with_note(1))).await?;
    is_as_it_was(10).await?;
    // Built anew, with the same columns.
    let rebuilt = offer(&*store, "three", &contract(&with_note(3))).await?;
    assert_eq!(rebuilt.generation.number, 2);
    home.by_hand("insert into some_orders_g2.number values (1, 30)", "").await?;
    let building = status(&*store, Role::Building).await?;
    let live = status(&*store, Role::Live).await?;
    assert_eq!(
        readers::from(&*store, &live, &building.layout).await?,
        None,
        "readers need not change anything"
    );
    assert!(promote(&*store, &building.generation).await?.replaced);
    is_as_it_was(30).await?;
    // Back, and forth again; then the one before goes.
    assert!(promote(&*store, &live.generation).await?.replaced);
    is_as_it_was(10).await?;
    assert!(promote(&*store, &building.generation).await?.replaced);
    store.retire(&live.generation, Origin::Command, &Requester::default()).await?;
    is_as_it_was(30).await?;
    Ok(())
}

#[tokio::test]
async fn what_readers_must_do_is_said_where_columns_change() -> Result<()> {
    let home = Home::postgres()?;
    let store = home.open().await?;
    offer(&*store, "one", &contract(&with_note(1))).await?;
    let mut reader = Reader::new(&home).await?;
    reader.session.execute("create view reports.report as select id from some_orders.number").await?;
    let live = status(&*store, Role::Live).await?;
    // A view more, in place: nobody may read it yet.
    let mut more = with_note(1);
    let extra = json!({"name": "extra", "key": ["id"], "columns": [{"name": "id", "type": "int64"}]});
    more["tables"].as_array_mut().expect("a list").push(extra);
    let more = contract(&more);
    let grown = live.layout.extended(Offered { contract: &more, topics: &topics(&more) });
    let told = readers::from(&*store, &live, &grown).await?.context("a view is new")?.to_lines();
    let granted = format!("select on some_orders.number to {}", reader.role);
    assert!(told[0].contains("the view extra is new") && told[1].contains(&granted), "{told:#?}");
    // A column less: other views.
    let next = contract(&with(|json| json["revision"] = 2.into()));
    let told = readers::from(&*store, &live, &Layout::unmapped(&next)).await?.context("a column is gone")?;
    assert_eq!(told.changes, ["the column number.note is gone"]);
    assert_eq!(told.readers.grants, [granted]);
    assert_eq!(told.readers.dependants, ["view reports.report"]);
    offer(&*store, "two", &next).await?;
    let building = status(&*store, Role::Building).await?.generation;
    let promoted = promote(&*store, &building).await?;
    assert_eq!((&*promoted.readers, promoted.replaced), ("some_orders_v2", false));
    // Both are served, to the same readers.
    assert_eq!(reader.sum("some_orders.number").await?, 0);
    assert_eq!(reader.sum("some_orders_v2.number").await?, 0);
    Ok(())
}

/// A view reads its table with its owner's rights.
#[tokio::test]
async fn a_view_that_a_person_gave_to_another_role_keeps_it_and_can_be_read() -> Result<()> {
    let home = Home::postgres()?;
    let store = home.open().await?;
    offer(&*store, "one", &contract(&numbers())).await?;
    let mut reader = Reader::new(&home).await?;
    let role = &reader.role;
    home.by_hand(
        &format!(
            "grant usage on schema some_orders_g1 to {role}; grant select on some_orders_g1.number to {role};
             grant create on schema some_orders to {role}; alter view some_orders.number owner to {role}"
        ),
        "",
    )
    .await?;
    offer(&*store, "two", &contract(&with(|json| json["revision"] = 2.into()))).await?;
    home.by_hand("insert into some_orders_g2.number values (1, 7)", "").await?;
    promote(&*store, &status(&*store, Role::Building).await?.generation).await?;
    assert_eq!(reader.sum("some_orders.number").await?, 7);
    Ok(())
}

/// Triggers of a view go along when SQLite drops it: they are made again.
#[tokio::test]
async fn a_persons_trigger_on_a_view_survives_promote_and_additions_on_sqlite() -> Result<()> {
    let home = Home::sqlite()?;
    let store = home.open().await?;
    offer(&*store, "one", &contract(&numbers())).await?;
    home.by_hand(
        "",
        "create table mine (id integer);
         create view report as select n from some_orders__number;
         create trigger catch instead of insert on some_orders__number
           begin insert into mine values (new.id); end",
    )
    .await?;
    offer(&*store, "two", &contract(&with_note(1))).await?;
    offer(&*store, "three", &contract(&with_note(3))).await?;
    let building = status(&*store, Role::Building).await?.generation;
    assert!(promote(&*store, &building).await?.replaced);
    home.by_hand("", "insert into some_orders__number (id) values (5)").await?;
    let Session::Sqlite(mut session) = home.session().await? else { unreachable!("it is SQLite") };
    let caught: i64 = sqlx::query_scalar("select id from mine").fetch_one(&mut session).await?;
    assert_eq!(caught, 5);
    assert_eq!(store.readers(&status(&*store, Role::Live).await?.views).await?.dependants.len(), 2);
    Ok(())
}

/// SQLite keeps the definitions of views in the file, so that they belong to a snapshot as rows do.
#[tokio::test]
async fn a_reader_with_an_old_snapshot_sees_the_old_generation_through_promote_and_retire_on_sqlite()
-> Result<()> {
    let home = Home::sqlite()?;
    let store = home.open().await?;
    offer(&*store, "one", &contract(&numbers())).await?;
    home.by_hand("", "insert into some_orders_g1__number (id, n) values (1, 10)").await?;
    let Session::Sqlite(mut reader) = home.session().await? else { unreachable!("it is SQLite") };
    reader.execute("begin").await?;
    // The snapshot is that of the first read.
    reader.fetch_one("select count(*) from projector_projection").await?;
    offer(&*store, "two", &contract(&with(|json| json["revision"] = 2.into()))).await?;
    home.by_hand("", "insert into some_orders_g2__number (id, n) values (1, 30)").await?;
    let live = status(&*store, Role::Live).await?.generation;
    promote(&*store, &status(&*store, Role::Building).await?.generation).await?;
    store.retire(&live, Origin::Command, &Requester::default()).await?;
    let sum = "select sum(n) from some_orders__number";
    let seen: i64 = reader.fetch_one(sum).await?.get(0);
    assert_eq!(seen, 10);
    reader.execute("commit").await?;
    let seen: i64 = reader.fetch_one(sum).await?.get(0);
    assert_eq!(seen, 30);
    Ok(())
}

/// What a driver prepared goes on working, and the new column has views of its own, which the same roles may read.
#[tokio::test]
async fn a_prepared_select_of_all_columns_survives_an_addition_in_place_and_by_promotion() -> Result<()> {
    let home = Home::postgres()?;
    let store = home.open().await?;
    offer(&*store, "one", &contract(&numbers())).await?;
    let mut reader = Reader::new(&home).await?;
    let all = async |reader: &mut Reader, schema: &str| -> Result<usize> {
        let sql = AssertSqlSafe(format!("select * from {schema}.number"));
        let rows = sqlx::query(sql).persistent(true).fetch_all(&mut reader.session).await?;
        Ok(rows.first().map_or(0, |row| row.len()))
    };
    home.by_hand("insert into some_orders_g1.number values (1, 10)", "").await?;
    assert_eq!(all(&mut reader, "some_orders").await?, 2);
    offer(&*store, "two", &contract(&with_note(1))).await?;
    assert_eq!(all(&mut reader, "some_orders").await?, 2);
    assert_eq!(all(&mut reader, "some_orders_v2").await?, 3);
    // A column more, and all rows anew.
    let longer = with(|json| {
        *json = with_note(2);
        let more = json!({"name": "more", "type": "text", "nullable": true});
        json["tables"][0]["columns"].as_array_mut().expect("a list").insert(0, more);
    });
    offer(&*store, "three", &contract(&longer)).await?;
    home.by_hand("insert into some_orders_g2.number (id, n) values (1, 30)", "").await?;
    let live = status(&*store, Role::Live).await?;
    let building = status(&*store, Role::Building).await?;
    let told = readers::from(&*store, &live, &building.layout).await?.context("a column is new")?;
    assert!(!told.must_move && told.to_lines()[0].contains("need not change anything"), "{told:?}");
    let promoted = promote(&*store, &building.generation).await?;
    assert_eq!((&*promoted.readers, promoted.replaced), ("some_orders_v3", false));
    assert_eq!(promoted.moved, ["some_orders", "some_orders_v2"]);
    for (schema, columns) in [("some_orders", 2), ("some_orders_v2", 3), ("some_orders_v3", 4)] {
        assert_eq!(
            (all(&mut reader, schema).await?, reader.sum(&format!("{schema}.number")).await?),
            (columns, 30)
        );
    }
    // Back: what has the column that is not there any more stays with the generation that has it.
    promote(&*store, &live.generation).await?;
    for (schema, columns, sum) in
        [("some_orders", 2, 10), ("some_orders_v2", 3, 10), ("some_orders_v3", 4, 30)]
    {
        assert_eq!(
            (all(&mut reader, schema).await?, reader.sum(&format!("{schema}.number")).await?),
            (columns, sum)
        );
    }
    Ok(())
}

/// The tables of a generation keep a column that a version added which was rolled back: the views that readers know
/// never had it.
#[tokio::test]
async fn readers_stay_where_they_are_when_a_generation_lacks_a_column_that_was_added_in_vain() -> Result<()> {
    for home in [Home::postgres()?, Home::sqlite()?] {
        let store = home.open().await?;
        offer(&*store, "one", &contract(&numbers())).await?;
        offer(&*store, "two", &contract(&with_note(1))).await?;
        offer(&*store, "one", &contract(&numbers())).await?;
        offer(&*store, "three", &contract(&with(|json| json["revision"] = 2.into()))).await?;
        let live = status(&*store, Role::Live).await?;
        let building = status(&*store, Role::Building).await?;
        let promoted = promote(&*store, &building.generation).await?;
        assert_eq!((&*promoted.readers, promoted.replaced), ("some_orders", true));
        // Who had begun to read the new column is told.
        let told = readers::from(&*store, &live, &building.layout).await?.context("a column is gone")?;
        assert!(told.must_move && told.readers.schema == "some_orders_v2", "{told:?}");
        let left: Vec<_> =
            status(&*store, Role::Warm).await?.views.into_iter().map(|set| set.schema).collect();
        assert_eq!(left, ["some_orders_v2"]);
        store.retire(&live.generation, Origin::Command, &Requester::default()).await?;
        let shown = status(&*store, Role::Live).await?.views;
        assert_eq!((shown.len(), &*shown[0].schema), (1, "some_orders"));
    }
    Ok(())
}

/// Views that keep the columns which readers knew are removed by a person, when none of theirs reads them any more.
#[tokio::test]
async fn views_without_the_newest_columns_are_retired_by_name() -> Result<()> {
    for home in [Home::postgres()?, Home::sqlite()?] {
        let store = home.open().await?;
        offer(&*store, "one", &contract(&numbers())).await?;
        offer(&*store, "two", &contract(&with_note(1))).await?;
        home.by_hand(
            "create view public.report as select n from some_orders.number",
            "create view report as select n from some_orders__number",
        )
        .await?;
        let asked = Requester::new("me".into(), Some("all have moved".into()));
        let refused = async |schema: &str| match store.retire_views(NAME, schema, &asked).await {
            Err(StoreError::Refused(refusal)) => refusal,
            other => panic!("{schema}: {other:?}"),
        };
        let depended_on = refused("some_orders").await;
        assert!(matches!(depended_on, Refusal::ForeignObjects { .. }), "{depended_on}");
        assert!(depended_on.to_string().contains("report"), "{depended_on}");
        assert!(matches!(refused("some_orders_v2").await, Refusal::OnlyViews { .. }));
        assert!(matches!(refused("some_orders_g1").await, Refusal::NoViews { .. }));
        home.by_hand("drop view public.report", "drop view report").await?;
        store.retire_views(NAME, "some_orders", &asked).await?;
        let live = status(&*store, Role::Live).await?;
        assert_eq!(live.views.iter().map(|set| &*set.schema).collect::<Vec<_>>(), ["some_orders_v2"]);
        let last = store.history(NAME, 1).await?;
        assert_eq!(last[0].request.reason.as_deref(), Some("the views in some_orders: all have moved"));
        // The next list of columns has a number of its own.
        let longer = with(|json| {
            *json = with_note(1);
            let more = json!({"name": "more", "type": "text", "nullable": true});
            json["tables"][0]["columns"].as_array_mut().expect("a list").push(more);
        });
        offer(&*store, "three", &contract(&longer)).await?;
        let live = status(&*store, Role::Live).await?;
        assert_eq!(live.newest_views().context("it has views")?.schema, "some_orders_v3");
    }
    Ok(())
}

/// A host of the version before stores only the schema of the newest views, and replaces these when a column is added.
#[tokio::test]
async fn views_that_a_host_of_the_version_before_made_are_known_by_their_schema() -> Result<()> {
    for home in [Home::postgres()?, Home::sqlite()?] {
        let store = home.open().await?;
        offer(&*store, "one", &contract(&numbers())).await?;
        home.by_hand(
            "update projector.generation set views = null",
            "update projector_generation set views = null",
        )
        .await?;
        offer(&*store, "two", &contract(&with_note(1))).await?;
        let schemas = |status: GenerationStatus| -> Vec<String> {
            status.views.into_iter().map(|set| set.schema).collect()
        };
        assert_eq!(schemas(status(&*store, Role::Live).await?), ["some_orders", "some_orders_v2"]);
        // As such a host does it: the newest views are those of another generation.
        offer(&*store, "three", &contract(&with_note(3))).await?;
        home.by_hand(
            "update projector.generation set readers = null where number = 1;
             update projector.generation set readers = 'some_orders_v2' where number = 2;
             update projector.generation set role = 'warm' where number = 1;
             update projector.generation set role = 'live' where number = 2",
            "update projector_generation set readers = null where number = 1;
             update projector_generation set readers = 'some_orders_v2' where number = 2;
             update projector_generation set role = 'warm' where number = 1;
             update projector_generation set role = 'live' where number = 2",
        )
        .await?;
        assert_eq!(schemas(status(&*store, Role::Warm).await?), ["some_orders"]);
        assert_eq!(schemas(status(&*store, Role::Live).await?), ["some_orders_v2"]);
    }
    Ok(())
}
