use projector_test_servers::Postgres;

#[test]
fn what_was_committed_survives_a_kill() {
    let mut postgres = Postgres::start().unwrap();
    postgres.execute("create table t (n int);\ninsert into t values (7);\n").unwrap();
    let first = postgres.pid();
    postgres.kill();
    assert!(postgres.execute("select 1").is_err(), "a killed server still answers");
    postgres.restart().unwrap();
    assert_ne!(postgres.pid(), first);
    assert_eq!(postgres.execute("select n from t").unwrap(), "7");
}

#[test]
fn settings_change_by_reload_and_by_restart() {
    let mut postgres = Postgres::start_with(&[("fsync", "off")]).unwrap();
    assert_eq!(postgres.execute("show fsync").unwrap(), "off");
    assert_eq!(postgres.execute("show max_connections").unwrap(), "200");
    postgres.set("default_transaction_read_only", "on").unwrap();
    assert!(postgres.execute("create table t (n int)").is_err(), "the server is not read-only");
    postgres.restart_with(&[("max_connections", "12")]).unwrap();
    assert_eq!(postgres.execute("show max_connections").unwrap(), "12");
    assert!(postgres.set("max_connections", "13").is_err());
}

#[test]
fn databases_are_apart() {
    let server = Postgres::shared();
    let one = server.create_unique_database("apart").unwrap();
    let two = server.create_unique_database("apart").unwrap();
    assert_ne!(one, two);
    assert!(one.contains("/apart_"), "{one}");
}

#[test]
fn text_is_sorted_as_people_do_unless_told_otherwise() {
    let postgres = Postgres::start_with(&[("fsync", "off")]).unwrap();
    assert_eq!(postgres.execute("select 'a' < 'B', 'a' collate \"C\" < 'B'").unwrap(), "t|f");
}
