//! Dead letters keep what the producer wrote, to the byte.

use std::collections::BTreeMap;

use anyhow::Result;
use projector_core::counters::OutcomeCounts;
use projector_core::event::{Event, Header, Position};
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_core::ordering::KeyId;
use projector_store::dead_letters::DeadLetterFilter;
use projector_store::{Advance, DeadLetter, Parked, Requester, Writes};
use serde_json::json;

use super::home::{Home, Session};
use super::on_both_stores;
use super::projection::{Projection, contract, numbers, partition};

on_both_stores!(
    a_dead_letter_keeps_every_byte,
    a_time_that_no_database_can_hold_is_left_out,
    no_number_is_given_twice,
    old_dead_letters_expire_and_free_their_keys
);

type Bytes = Option<Vec<u8>>;

fn event(offset: i64, key: Bytes, value: Bytes, headers: Vec<Header>) -> Event {
    Event {
        position: Position { partition: partition(), offset },
        topic: 0,
        timestamp_ms: Some(1_700_000_000_123),
        key,
        value,
        also: Vec::new(),
        topic_name: "t".into(),
        oversize_bytes: None,
        headers,
    }
}

fn header(name: &str, value: Option<&[u8]>) -> Header {
    Header { name: name.into(), value: value.map(Into::into) }
}

async fn add_dead_letters(projection: &Projection, events: &[Event]) -> Result<()> {
    let failure = Failure::new(FailureKind::Trap, "trap", "unreachable\0 at \u{1b}[31mline 1");
    let buried = events.len() as i64;
    let advance = Advance {
        partition: partition(),
        expected: 0,
        next: buried,
        counts: OutcomeCounts { dead: BTreeMap::from([("trap".into(), buried)]), ..OutcomeCounts::default() },
    };
    let positions = events.iter().map(|event| &event.position).collect();
    let dead = events
        .iter()
        .map(|event| DeadLetter { event, failure: &failure, blocks: None, moved_by: None })
        .collect();
    projection.commit(&Writes { advances: vec![advance], positions, dead, ..Writes::default() }).await?;
    Ok(())
}

/// `(key, payload, headers, microseconds)`, by offset.
async fn buried(home: &Home) -> Result<Vec<(Bytes, Bytes, String, Option<i64>)>> {
    Ok(match home.session().await? {
        Session::Postgres(mut session) => {
            let sql = "select key, payload, headers::text, (extract(epoch from recorded_at) * 1000000)::int8
                       from projector.dead_letter order by \"offset\"";
            sqlx::query_as(sql).fetch_all(&mut session).await?
        }
        Session::Sqlite(mut session) => {
            let sql =
                "select key, payload, headers, recorded_at from projector_dead_letter order by \"offset\"";
            sqlx::query_as(sql).fetch_all(&mut session).await?
        }
    })
}

async fn a_dead_letter_keeps_every_byte(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let every_byte: Vec<u8> = (0..=255).collect();
    let headers = vec![
        header("x-trace-id", Some(b"abc")),
        header("x-trace-id", Some(b"a second of that name")),
        header("none", None),
        header("empty", Some(b"")),
        header("nul", Some(b"a\0b")),
        header("not text", Some(&[0xff, 0xfe])),
        header("\u{1f600} \"quoted\" \\u0000", Some("é\u{1f600}\\u0000".as_bytes())),
    ];
    add_dead_letters(
        &projection,
        &[
            event(0, Some(every_byte.clone()), Some(vec![0xff; 100_000]), headers),
            event(1, None, None, Vec::new()),
            event(2, Some(Vec::new()), Some(Vec::new()), Vec::new()),
        ],
    )
    .await?;
    let letters = buried(&home).await?;
    assert_eq!(letters.len(), 3);
    assert_eq!(letters[0].0, Some(every_byte));
    assert_eq!(letters[0].1, Some(vec![0xff; 100_000]));
    assert_eq!((&letters[1].0, &letters[1].1), (&None, &None));
    assert_eq!((&letters[2].0, &letters[2].1), (&Some(Vec::new()), &Some(Vec::new())));
    assert_eq!(letters[0].3, Some(1_700_000_000_123_000));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&letters[0].2)?,
        json!([
            {"name": "x-trace-id", "value": "abc"},
            {"name": "x-trace-id", "value": "a second of that name"},
            {"name": "none", "value": null},
            {"name": "empty", "value": ""},
            {"name": "nul", "value": {"hex": "610062"}},
            {"name": "not text", "value": {"hex": "fffe"}},
            {"name": "\u{1f600} \"quoted\" \\u0000", "value": "é\u{1f600}\\u0000"},
        ])
    );
    Ok(())
}

async fn a_time_that_no_database_can_hold_is_left_out(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let at = |offset: i64, timestamp_ms: Option<i64>| Event {
        timestamp_ms,
        ..event(offset, None, None, Vec::new())
    };
    let year_12000 = 316_516_377_600_000;
    let events = [at(0, Some(i64::MAX)), at(1, Some(year_12000)), at(2, Some(-1)), at(3, None)];
    add_dead_letters(&projection, &events).await?;
    let times: Vec<_> = buried(&home).await?.into_iter().map(|letter| letter.3).collect();
    assert_eq!(times, [None, None, Some(-1_000), None]);
    Ok(())
}

/// An operator who means the first one must not hit another.
async fn no_number_is_given_twice(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let (store, generation) = (&projection.store, &projection.deployment.generation);
    let all = DeadLetterFilter { most: 9, ..DeadLetterFilter::default() };
    add_dead_letters(&projection, &[event(0, Some(b"k".to_vec()), None, Vec::new())]).await?;
    let first = store.dead_letters(&all).await?[0].id;
    assert_eq!(store.erase(generation, b"k", &[], &Requester::default()).await?, 1);
    let failure = Failure::new(FailureKind::Trap, "trap", "again");
    let again = event(1, None, None, Vec::new());
    let counts = OutcomeCounts { dead: BTreeMap::from([("trap".into(), 1)]), ..OutcomeCounts::default() };
    projection
        .commit(&Writes {
            advances: vec![Advance { partition: partition(), expected: 1, next: 2, counts }],
            dead: vec![DeadLetter { event: &again, failure: &failure, blocks: None, moved_by: None }],
            ..Writes::default()
        })
        .await?;
    assert_ne!(store.dead_letters(&all).await?[0].id, first);
    Ok(())
}

/// By their age, keyed or not; what an event waits behind stays.
async fn old_dead_letters_expire_and_free_their_keys(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let (store, generation) = (&projection.store, &projection.deployment.generation);
    let failure = Failure::new(FailureKind::Rejected, "no", "no");
    let named = |name: &str| event(i64::from(name.as_bytes()[0] - b'a'), Some(name.into()), None, Vec::new());
    let [alone, waited_for, keyless, young] = ["a", "b", "c", "d"].map(named);
    let [id_of_alone, id_of_waited_for] = [KeyId([1; 16]), KeyId([2; 16])];
    let dead = |event, blocks| DeadLetter { event, failure: &failure, blocks, moved_by: None };
    let waits = event(4, Some(b"b".to_vec()), None, Vec::new());
    let counts =
        OutcomeCounts { dead: BTreeMap::from([("no".into(), 4)]), parked: 1, ..OutcomeCounts::default() };
    projection
        .commit(&Writes {
            advances: vec![Advance { partition: partition(), expected: 0, next: 5, counts }],
            dead: vec![
                dead(&alone, Some(id_of_alone)),
                dead(&waited_for, Some(id_of_waited_for)),
                dead(&keyless, None),
                dead(&young, None),
            ],
            parked: vec![Parked { event: &waits, key: id_of_waited_for, row: None }],
            ..Writes::default()
        })
        .await?;
    let two_days_ago = "where \"offset\" < 3";
    home.by_hand(
        &format!("update projector.dead_letter set died_at = died_at - interval '2 days' {two_days_ago}"),
        &format!("update projector_dead_letter set died_at = died_at - 172800000000 {two_days_ago}"),
    )
    .await?;
    let asked = Requester::new("a test".into(), None);
    assert_eq!(store.expire(generation, 86_400, &asked).await?, 2);
    assert_eq!(store.expire(generation, 86_400, &asked).await?, 0);
    let left = store.dead_letters(&DeadLetterFilter { most: 9, ..DeadLetterFilter::default() }).await?;
    assert_eq!(left.iter().map(|letter| letter.event.offset).collect::<Vec<_>>(), [1, 3]);
    let blocked = projection.begin().await?.blocked(vec![id_of_alone, id_of_waited_for]).await?;
    assert!(!blocked.contains(&id_of_alone) && blocked.contains(&id_of_waited_for));
    let counters = projection.partition_state(&partition()).await?.counters;
    assert_eq!((counters.read, counters.dead, counters.skipped, counters.parked), (5, 2, 2, 1));
    Ok(())
}
