//! A generation is caught up when all of its partitions were at their ends, whichever lane or host reads them.

use projector_workload::topics::{self, Topic};
use projector_workload::{CUSTOMER_PROFILE_UPDATED, Mix, Record};
use serde_json::Value;

use super::generations::status;
use crate::harness::{
    ORDER_SEARCH, Platform, ReadModel, SALES_BY_COUNTRY, Session, assert_same, eventually, fold, seed,
};

/// More lanes than partitions, so that some lanes have none; or as many.
fn built_beside(name: &str, partitions: i32) -> Platform {
    let platform = Platform::new(name, &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["lanes"], 4)
        .set(&["batch", "events"], 100)
        .set(&["deploy", "rebuild-share"], 0.5);
    platform.create_topics(partitions);
    let records: Vec<Record> = platform.workload(seed(131), 2_000).records().collect();
    platform.publish(&records);
    platform
}

#[track_caller]
fn until_promoted(platform: &Platform) {
    eventually("the new generation is shown", || {
        let (code, _, said) = platform.command(&["promote", SALES_BY_COUNTRY]);
        if code == 0 { Ok(()) } else { Err(said) }
    });
    let expected = fold(platform);
    assert_same("sales", &expected.sales, &platform.read_model().sales());
}

#[test]
fn lanes_without_a_partition_keep_no_generation_behind() {
    let platform = built_beside("caught-up-few", 1);
    let host = platform.start_host("host");
    platform.until_fresh();
    platform.ask(&["rebuild", SALES_BY_COUNTRY]);
    until_promoted(&platform);
    host.sigterm();
}

/// Writes of one partition of the new generation wait for a lock, which the test holds.
#[test]
fn a_generation_is_behind_as_long_as_one_of_its_lanes_is() {
    let platform = built_beside("caught-up-many", 4);
    let host = platform.start_host("host");
    platform.until_fresh();
    platform.read_model().query(
        "create function public.wait_for_the_test() returns trigger language plpgsql security definer as $$
         begin
           if new.partition = 3 and new.next_offset <> old.next_offset
             and (select role from projector.generation where id = new.generation_id) <> 'live' then
             perform pg_advisory_xact_lock_shared(4711);
           end if;
           return new;
         end $$",
    );
    platform.read_model().query(
        "create trigger wait_for_the_test before update on projector.checkpoint
         for each row execute function public.wait_for_the_test()",
    );
    let ReadModel::Postgres { url } = platform.read_model() else { panic!("it is a Postgres") };
    let mut session = Session::open(url).unwrap();
    session.run("select pg_advisory_lock(4711)::text");

    platform.ask(&["rebuild", SALES_BY_COUNTRY]);
    eventually("all of its partitions but one are at their ends", || {
        let status = platform.status()?.remove(SALES_BY_COUNTRY).ok_or("it is not installed")?;
        let built = status.beside.into_iter().next().ok_or("none is built")?;
        let behind: Vec<i32> =
            built.partitions.iter().filter(|of| of.lag > 0).map(|of| of.partition).collect();
        let all_begun = built.partitions.iter().all(|of| of.checkpoint.is_some());
        if all_begun && behind == [3] { Ok(()) } else { Err(format!("behind: {behind:?}")) }
    });
    let (code, _, said) = platform.command(&["promote", SALES_BY_COUNTRY]);
    let said: String = said.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(code == 1 && said.contains("has not come to the end of its topics"), "{code}: {said}");

    session.run("select pg_advisory_unlock(4711)::text");
    until_promoted(&platform);
    // Each lane left the live generation its share of the time.
    let log = host.sigterm();
    let lines = log.lines();
    let wrote = lines.iter().filter(|line| {
        line.message() == "projection stopped"
            && line.number("generation") == Some(2)
            && line.number("batches").is_some_and(|batches| batches > 0)
    });
    let rested: Vec<_> = wrote.map(|line| line.number("rested_ms")).collect();
    assert!(rested.len() > 1, "several lanes wrote: {rested:?}");
    assert!(rested.iter().all(|rested| rested.is_some_and(|rested| rested > 0)), "{rested:?}");
}

/// There is no end of a topic that does not exist, whatever is read of the others.
#[test]
fn a_generation_with_a_topic_that_does_not_exist_is_not_caught_up_and_the_topic_is_named() {
    let platform = Platform::new("caught-up-missing", &[ORDER_SEARCH], ReadModel::postgres());
    let missing = platform.topic("not.there");
    let platform = platform.set(&["kafka", "topics", CUSTOMER_PROFILE_UPDATED], missing.clone());
    platform.create_topics(1);
    let mut workload = platform.workload(seed(132), 300);
    workload.mix = Mix { orders: 60, country_changes: 40, profile_updates: 0 };
    let records: Vec<Record> = workload.records().collect();
    platform.publish(&records);
    let host = platform.start_host("host");
    host.log().until_said("projection runs");
    platform.ask(&["rebuild", ORDER_SEARCH]);
    let read = eventually("the new generation is through with the topics that are there", || {
        let status = status(&platform, ORDER_SEARCH);
        let built = &status["beside"][0];
        let begun = |of: &Value| of["checkpoint"].as_i64().is_some_and(|next| next > 0) && of["lag"] == 0;
        let partitions = built["partitions"].as_array().ok_or("none is built")?;
        if partitions.len() == 2 && partitions.iter().all(begun) {
            Ok(built.clone())
        } else {
            Err("it reads")
        }
    });
    let Some(why) = read["building"]["stands_still"].as_str() else { panic!("it gets on: {read:#}") };
    assert!(why.contains(&missing) && read["building"]["remaining_seconds"].is_null(), "{read:#}");
    host.log().until_said("the generation does not count as caught up while");
    for promote in [&["promote", ORDER_SEARCH][..], &["promote", ORDER_SEARCH, "--force", "--reason", "no"]] {
        let (code, _, said) = platform.command(promote);
        let said = said.replace(['│', '\n'], " ").split_whitespace().collect::<Vec<_>>().join("");
        assert!(code == 1 && said.contains(&missing), "{code}: {said}");
    }
    topics::create(platform.brokers(), &[Topic::new(missing, 1)]).unwrap();
    eventually("the new generation is shown", || {
        let (code, _, said) = platform.command(&["promote", ORDER_SEARCH]);
        if code == 0 { Ok(()) } else { Err(said) }
    });
    host.sigterm();
}
