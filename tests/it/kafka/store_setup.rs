//! A running host, and a database that lets it in no more, or not yet: told as that, and mended without a
//! restart.

use std::fs;

use projector_test_servers::{PgBouncer, Postgres};

use crate::harness::{
    Host, Line, Platform, ReadModel, SALES_BY_COUNTRY, Session, eventually, postgres_snippet, seed,
};

/// A database to which the role `projector` is let in, and its url.
fn database(postgres: &Postgres, password: &str) -> String {
    postgres.execute(&format!("create role projector login password '{password}';\n")).unwrap();
    postgres.create_database("readmodels").unwrap();
    format!("postgres://projector@127.0.0.1:{}/readmodels", postgres.port())
}

/// The superuser's way to it.
fn admin(postgres: &Postgres) -> String {
    format!("postgres://postgres@127.0.0.1:{}/readmodels", postgres.port())
}

/// Runs a statement as the superuser, in the database of the read models.
fn by_hand(postgres: &Postgres, sql: &str) {
    Session::open(&admin(postgres)).unwrap().run(sql);
}

#[track_caller]
fn until_told(host: &Host, words: &[&str]) -> Line {
    host.log().wait_for(&format!("{words:?}"), |line| {
        line.field("kind") == "database-setup" && words.iter().all(|word| line.field("error").contains(word))
    })
}

#[track_caller]
fn assert_never_said(host: &Host, never: &[&str]) {
    for line in host.log().lines() {
        for word in never {
            assert!(!line.text.contains(word), "{word:?}: {}", line.text);
        }
    }
}

/// The role, the right and the object are named; the grant is all that it takes.
#[test]
fn a_missing_right_is_named_and_its_grant_is_enough() {
    let postgres = Postgres::start().unwrap();
    let url = database(&postgres, "x");
    let platform = Platform::new("no-create", &[SALES_BY_COUNTRY], ReadModel::Postgres { url });
    platform.create_topics(2);
    platform.publish(&platform.workload(seed(341), 300).records().collect::<Vec<_>>());
    let host = platform.start_host("waiting");
    until_told(&host, &["\"projector\"", "schema", "grant create on database \"readmodels\""]);
    let (code, _, said) = platform.command(&["dlq", "list"]);
    assert!(code == 2 && said.contains("\"readmodels\""), "{code}: {said}");
    postgres.execute("grant create on database readmodels to projector;\n").unwrap();
    platform.assert_sales_are_right();

    // Of a table in use.
    by_hand(&postgres, "revoke insert, update on sales_by_country_g1.sales_by_country from projector");
    platform.publish(&platform.workload(seed(342), 300).records().collect::<Vec<_>>());
    until_told(&host, &["permission denied for table", "grant select, insert"]);
    eventually("the status tells", || {
        let status = platform.status()?;
        match &status[SALES_BY_COUNTRY].halted {
            Some(trouble)
                if trouble.kind == "database-setup"
                    && trouble.says(&["permission denied", "without a restart"]) =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    });
    by_hand(&postgres, "grant insert, update on sales_by_country_g1.sales_by_country to projector");
    eventually("it goes on", || {
        let status = platform.status()?;
        let projection = &status[SALES_BY_COUNTRY];
        match projection.halted.is_none() && projection.fresh {
            true => Ok(()),
            false => Err(format!("{projection:?}")),
        }
    });
    assert_never_said(&host, &["replace the file", "by hand", "\"kind\":\"database\""]);
    host.sigterm();
}

/// The store's trouble is not the plugin's.
#[test]
fn a_store_that_lets_nobody_in_is_no_fault_of_a_plugin() {
    let postgres = Postgres::start().unwrap();
    let url = database(&postgres, "one");
    postgres.execute("grant create on database readmodels to projector;\n").unwrap();
    postgres
        .let_in("host all projector 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust")
        .unwrap();
    let secret = tempfile::tempdir().unwrap();
    let file = secret.path().join("password");
    fs::write(&file, "wrong-one").unwrap();
    let platform =
        Platform::new("rotated", &[SALES_BY_COUNTRY], ReadModel::Postgres { url: admin(&postgres) })
            .set(&["store", "url"], url)
            .set(&["store", "password"], format!("${{file:{}}}", file.display()));
    platform.create_topics(2);
    let history = platform.workload(seed(343), 600).records().collect::<Vec<_>>();
    let (first, rest) = history.split_at(200);
    let (second, third) = rest.split_at(200);
    platform.publish(first);
    // At its start, the configuration is wrong.
    let (code, _, said) = platform.command(&["run"]);
    assert!(code == 2 && said.contains("\"projector\"") && said.contains("password"), "{code}: {said}");
    assert!(!said.contains("wrong-one"), "{said}");
    fs::write(&file, "one\n").unwrap();
    let host = platform.start_host("patient");
    platform.until_fresh();

    // While it runs, it waits until that is mended.
    fs::write(&file, "wrong-one").unwrap();
    postgres
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'projector';\n")
        .unwrap();
    platform.publish(second);
    until_told(&host, &["\"projector\"", "password"]);
    fs::write(&file, "one\n").unwrap();
    platform.until_fresh();

    // Rotated in the database and in the file while the host runs.
    postgres.execute("alter role projector password 'two';\n").unwrap();
    postgres
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'projector';\n")
        .unwrap();
    platform.publish(third);
    fs::write(&file, "two\n").unwrap();
    platform.assert_sales_are_right();
    assert_never_said(&host, &["replace the file", "plugin refused", "wrong-one"]);
    host.sigterm();
}

/// Fault 43, session mode: the server ends the transaction of a host that stopped dead.
#[test]
fn a_stopped_hosts_transaction_ends_behind_a_pooler() {
    let postgres = Postgres::start().unwrap();
    postgres.create_database("readmodels").unwrap();
    let pooler = PgBouncer::start(&postgres, postgres_snippet("pooler")).unwrap();
    let platform =
        Platform::new("pooled", &[SALES_BY_COUNTRY], ReadModel::Postgres { url: admin(&postgres) })
            .set(&["store", "url"], pooler.url("readmodels"))
            .set(&["batch", "events"], 50)
            .set(&["store", "idle-in-transaction-timeout"], "2s");
    platform.create_topics(2);
    platform.publish(&platform.workload(seed(344), 1_000).records().collect::<Vec<_>>());
    let host = platform.start_host_with("zombie", "before-commit=stop@3");
    host.until_stopped_at("before-commit");
    eventually("the server ends its transaction", || {
        let open = "select count(*) from pg_stat_activity where state like 'idle in transaction%';\n";
        match postgres.execute(open).unwrap().trim() {
            "0" => Ok(()),
            open => Err(open.to_owned()),
        }
    });
    host.cont();
    platform.assert_sales_are_right();
    host.sigterm();
}

/// Fault 43, transaction mode: told as it is, and the host goes on once it is another one.
#[test]
fn a_host_behind_a_pooler_in_transaction_mode_says_so() {
    let postgres = Postgres::start().unwrap();
    postgres.create_database("readmodels").unwrap();
    let pooler = PgBouncer::start(&postgres, "pool_mode = transaction").unwrap();
    let platform =
        Platform::new("pooled-short", &[SALES_BY_COUNTRY], ReadModel::Postgres { url: admin(&postgres) })
            .set(&["store", "url"], pooler.url("readmodels"));
    platform.create_topics(1);
    let host = platform.start_host("refusing");
    until_told(&host, &["pooler", "session mode"]);
    assert_never_said(&host, &["replace the file", "\"kind\":\"database\""]);
    host.sigterm();
}

/// What works, and is worth a word: passwords and rows that leave the machine unencrypted, and lanes that
/// have to wait for each other's connections.
#[test]
fn plain_text_and_too_few_connections_are_warned_of() {
    let postgres = Postgres::start().unwrap();
    let warned = |host: &Host, text: &str| host.log().lines().iter().any(|line| line.text.contains(text));
    for (address, exposed) in [("127.0.0.1", false), ("0.0.0.0", true)] {
        let url = postgres.create_database(&format!("at-{address}")).unwrap();
        let platform = Platform::new("warned", &[SALES_BY_COUNTRY], ReadModel::Postgres { url: url.clone() })
            .set(&["store", "url"], url.replace("127.0.0.1", address))
            .set(&["store", "connections"], if exposed { 6 } else { 20 })
            .set(&["lanes"], 4);
        platform.create_topics(2);
        let host = platform.start_host("warned");
        host.log().wait_for("that it runs", |line| line.message() == "projection runs");
        assert_eq!(warned(&host, "the connection to the store is not encrypted"), exposed);
        assert_eq!(warned(&host, "the store has too few connections for the projection's lanes"), exposed);
        host.sigterm();
    }
}
