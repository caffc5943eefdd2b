//! A store that a host cannot use when it starts: told, tried again, and used once it can be.

use std::fs;

use crate::harness::{
    Platform, ReadModel, SALES_BY_COUNTRY, Session, request, seed, until_nothing_is_retried, until_told,
    with_admin,
};

/// A SQLite file belongs to one host. One that comes while the one before still stops waits for its end.
#[test]
fn a_host_whose_file_another_one_has_runs_when_that_one_has_ended() {
    let platform = with_admin(Platform::new("handed-over", &[SALES_BY_COUNTRY], ReadModel::sqlite()))
        .set(&["batch", "events"], 50);
    platform.create_topics(2);
    let history = platform.workload(seed(345), 900).records().collect::<Vec<_>>();
    let (before, after) = history.split_at(300);
    platform.publish(before);
    let first = platform.start_host_with("first", "before-commit=stop@4");
    first.until_stopped_at("before-commit");

    let second = platform.start_host("second");
    let told = until_told(&second, "database", "another host uses this database");
    assert!(told["store"].is_string(), "{told}");
    platform.publish(after);
    first.kill();
    platform.assert_sales_are_right();
    until_nothing_is_retried(&second);
    second.sigterm();
}

#[test]
fn a_store_that_is_unusable_at_the_start_is_used_once_it_is_mended() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let platform = with_admin(Platform::new("mended", &[SALES_BY_COUNTRY], read_model));
        platform.create_topics(1);
        platform.publish(&platform.workload(seed(346), 300).records().collect::<Vec<_>>());
        let word = match platform.read_model() {
            ReadModel::Postgres { url } => {
                Session::open(url).unwrap().run("create schema projector create table store (n int)");
                "already exists"
            }
            ReadModel::Sqlite { file } => {
                fs::write(file.get().unwrap(), "a letter to nobody, ".repeat(100)).unwrap();
                "not a database"
            }
        };
        let host = platform.start_host("patient");
        until_told(&host, "database-setup", word);
        let address = host.log().until_said("the admin API is listening");
        assert_eq!(request(address.field("address"), None, "GET /healthz", "").0, 200);
        match platform.read_model() {
            ReadModel::Postgres { url } => {
                Session::open(url).unwrap().run("drop schema projector cascade");
            }
            ReadModel::Sqlite { file } => fs::remove_file(file.get().unwrap()).unwrap(),
        }
        platform.assert_sales_are_right();
        until_nothing_is_retried(&host);
        host.sigterm();
    }
}
