//! Every way of connecting to a Postgres, and what is said where there is none. What an operator sees is
//! asked of the real command: its exit code, and its words.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use projector_core::failure::FailureKind;
use projector_store::{self as store, StoreError};
use projector_test_servers::{Issuer, PgBouncer, Postgres};
use tempfile::TempDir;

use super::home::{Home, wait_until};
use super::projection::{PUT, Projection, contract, numbers, numeric};
use super::settings;
use crate::harness::postgres_snippet;

/// `projector migrate` on this store: it asks for nothing but the database. The exit code, and its words.
fn asked(url: &str, more: &str, environment: &[(&str, &Path)]) -> (i32, String) {
    asked_with(&format!("[store]\nurl = \"{url}\"\n{more}\n"), environment)
}

/// The same, by the configuration's table `store`.
fn asked_with(store: &str, environment: &[(&str, &Path)]) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("projector.toml");
    let config = format!("[kafka]\nbrokers = \"127.0.0.1:1\"\n[plugins]\ndirectory = \"plugins\"\n{store}");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_projector"));
    command.args(["migrate", "--config"]).arg(&file).env_remove("SSL_CERT_DIR");
    for (name, value) in environment {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // Lines are broken wherever they are full.
    let words = said.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ").replace("- ", "-");
    (output.status.code().unwrap_or(-1), words)
}

#[track_caller]
fn works(url: &str, environment: &[(&str, &Path)]) {
    let (code, said) = asked(url, "", environment);
    assert_eq!(code, 0, "{url}: {said}");
}

/// The configuration is at fault, and all of these words are said.
#[track_caller]
fn is_refused(url: &str, environment: &[(&str, &Path)], words: &[&str]) {
    let (code, said) = asked(url, "", environment);
    assert_eq!(code, 2, "{url}: {said}");
    for word in words {
        assert!(said.contains(word), "{url}: not {word:?} in: {said}");
    }
    for never in [PASSWORD, "at line", "by itself", "replace the file", "check that it is running"] {
        assert!(!said.contains(never), "{url}: {never:?} in: {said}");
    }
}

const PASSWORD: &str = "s3cret-of-a-test";

/// A server with TLS, to which the role `projector` is let in as `lines` of its pg_hba.conf say.
struct Secured {
    postgres: Postgres,
    authority: Issuer,
    /// Of another authority, which vouches for nobody here.
    other: Issuer,
    directory: TempDir,
    _other: TempDir,
}

impl Secured {
    fn start(lines: &str) -> Result<Secured> {
        let (directory, another) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let (authority, other) = (Issuer::new(directory.path())?, Issuer::new(another.path())?);
        let postgres = Postgres::start_with(&[("fsync", "off")])?;
        postgres.execute(&format!("create role projector login password '{PASSWORD}';\n"))?;
        postgres.execute("create database readmodels owner projector;\n")?;
        let own = authority.vouch("server", "server", "DNS:localhost", 30)?;
        postgres.encrypt(&own, &authority)?;
        postgres.let_in(lines)?;
        Ok(Secured { postgres, authority, other, directory, _other: another })
    }

    fn url(&self, host: &str, query: &str) -> String {
        let port = self.postgres.port();
        format!("postgres://projector:{PASSWORD}@{host}:{port}/readmodels?{query}")
    }

    fn root(&self) -> String {
        self.authority.certificate().display().to_string()
    }
}

#[test]
fn a_certificate_is_checked_as_sslmode_says() -> Result<()> {
    let server =
        Secured::start("hostssl all all 127.0.0.1/32 scram-sha-256\nhostnossl all all 127.0.0.1/32 reject")?;
    let (root, foreign) = (server.root(), server.other.certificate());
    let ours = server.authority.certificate();
    works(&server.url("127.0.0.1", "sslmode=require"), &[]);
    works(&server.url("127.0.0.1", ""), &[]);
    works(&server.url("localhost", &format!("sslmode=verify-full&sslrootcert={root}")), &[]);
    works(&server.url("127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={root}")), &[]);
    // As libpq: with an authority, `require` is `verify-ca`.
    works(&server.url("127.0.0.1", &format!("sslmode=require&sslrootcert={root}")), &[]);
    // The system's authorities by default.
    works(&server.url("localhost", "sslmode=verify-full"), &[("SSL_CERT_FILE", &ours)]);
    let stranger = ["not signed by a trusted authority", "sslrootcert="];
    is_refused(&server.url("localhost", "sslmode=verify-full"), &[("SSL_CERT_FILE", &foreign)], &stranger);
    is_refused(&server.url("localhost", "sslmode=verify-ca"), &[("SSL_CERT_FILE", &foreign)], &stranger);
    // `sslrootcert` replaces them.
    let pinned = format!("sslmode=verify-full&sslrootcert={}", foreign.display());
    is_refused(&server.url("localhost", &pinned), &[("SSL_CERT_FILE", &ours)], &stranger);
    let pinned = format!("sslmode=verify-ca&sslrootcert={}", foreign.display());
    is_refused(&server.url("localhost", &pinned), &[("SSL_CERT_FILE", &ours)], &stranger);

    for query in [format!("sslmode=verify-full&sslrootcert={root}"), "sslmode=verify-full".into()] {
        let trusted: [(&str, &Path); 1] = [("SSL_CERT_FILE", &ours)];
        is_refused(
            &server.url("127.0.0.1", &query),
            &trusted,
            &["not for the host", "127.0.0.1", "verify-ca"],
        );
    }
    is_refused(
        &server.url("localhost", "sslmode=disable"),
        &[],
        &["may not log in", "pg_hba.conf", "projector"],
    );
    is_refused(
        &server.url("localhost", "sslmode=verify-full&sslrootcert=/nowhere.pem"),
        &[],
        &["/nowhere.pem"],
    );

    let expired = server.authority.vouch("expired", "server", "DNS:localhost", -1)?;
    server.postgres.encrypt(&expired, &server.authority)?;
    for query in [format!("sslmode=verify-full&sslrootcert={root}"), "sslmode=verify-full".into()] {
        is_refused(&server.url("localhost", &query), &[("SSL_CERT_FILE", &ours)], &["has expired", "renew"]);
    }
    Ok(())
}

/// What the page about connecting shows, on a new server: with the right to create schemas, and with schemas
/// that a DBA made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_page_shows_is_enough() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let secret = directory.path().join("password");
    std::fs::write(&secret, PASSWORD)?;
    let role = postgres_snippet("role").replace('…', PASSWORD);
    for by_dba in [false, true] {
        let authorities = tempfile::tempdir()?;
        let authority = Issuer::new(authorities.path())?;
        let server = Postgres::start_with(&[("fsync", "off")])?;
        server.encrypt(&authority.vouch("server", "server", "DNS:localhost", 30)?, &authority)?;
        server.let_in(
            "hostssl all projector 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust",
        )?;
        match by_dba {
            false => drop(server.execute(&role)?),
            true => {
                let without = role.lines().filter(|line| !line.starts_with("grant create"));
                server.execute(&without.map(|line| format!("{line}\n")).collect::<String>())?;
                let schemas = postgres_snippet("schemas").replace("order_search", "some_orders");
                server.execute_in("readmodels", &schemas)?;
            }
        }
        let adapted = |block: &str| {
            let (root, secret) = (authority.certificate(), secret.display().to_string());
            let text = block.replace("/etc/projector/pg-ca.pem", &root.display().to_string());
            let text = text.replace("/run/secrets/pg", &secret);
            let address = format!("localhost:{}", server.port());
            ["db.example:5432", "a.example:5432", "b.example:5432"]
                .iter()
                .fold(text, |text, example| text.replace(example, &address))
        };
        let store: toml::Table = adapted(postgres_snippet("store")).parse()?;
        let opened = store::open(&store["store"].clone().try_into()?).await?;
        let projection = Projection::install(opened, contract(&numbers())).await?;
        projection.write(&[vec![numeric(PUT, &[1, 1])]]).await?;

        let several = adapted(postgres_snippet("several-servers"));
        let several = format!("{several}password = \"${{file:{}}}\"\n", secret.display());
        let (code, said) = asked_with(&several, &[("SSL_CERT_FILE", &authority.certificate())]);
        assert_eq!(code, 0, "{several}: {said}");
    }
    Ok(())
}

/// More than one buffer each way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_goes_through_a_connection_by_own_authorities() -> Result<()> {
    let server = Secured::start("hostssl all all 127.0.0.1/32 scram-sha-256")?;
    let url = server.url("localhost", &format!("sslmode=verify-full&sslrootcert={}", server.root()));
    let projection = Projection::install(store::open(&settings(&url)).await?, contract(&numbers())).await?;
    let events: Vec<_> = (0..60_000).map(|id| vec![numeric(PUT, &[id, id])]).collect();
    for events in events.chunks(20_000) {
        projection.write(events).await?;
    }
    assert_eq!(projection.partition_state(&super::projection::partition()).await?.counters.applied, 60_000);
    Ok(())
}

#[test]
fn a_client_may_show_a_certificate() -> Result<()> {
    let server = Secured::start("hostssl all all 127.0.0.1/32 cert clientcert=verify-full")?;
    let client = server.authority.vouch("client", "projector", "DNS:client", 30)?;
    let shown = |name: &str| {
        let file = |end: &str| server.directory.path().join(format!("{name}.{end}")).display().to_string();
        format!("sslcert={}&sslkey={}", file("pem"), file("key"))
    };
    let root = server.root();
    let pinned = format!("sslmode=verify-full&sslrootcert={root}&{}", shown("client"));
    works(&server.url("localhost", &pinned), &[]);
    works(&server.url("localhost", &format!("sslmode=require&{}", shown("client"))), &[]);
    is_refused(&server.url("localhost", "sslmode=require"), &[], &["certificate", "pg_hba.conf"]);
    server.authority.vouch("eve", "eve", "DNS:eve", 30)?;
    is_refused(&server.url("localhost", &format!("sslmode=require&{}", shown("eve"))), &[], &["projector"]);
    is_refused(&server.url("localhost", &format!("sslmode=require&{}", shown("gone"))), &[], &["gone.pem"]);

    // Replaced on the disk, it is in use from the next connection on.
    let eve = |end: &str| server.directory.path().join(format!("eve.{end}"));
    std::fs::copy(&client.certificate, eve("pem"))?;
    std::fs::copy(&client.key, eve("key"))?;
    works(&server.url("localhost", &format!("sslmode=require&{}", shown("eve"))), &[]);
    Ok(())
}

#[test]
fn what_is_wrong_with_the_url_is_told_as_configuration() -> Result<()> {
    let postgres = Postgres::start_with(&[("fsync", "off")])?;
    postgres.execute(&format!("create role projector login password '{PASSWORD}';\n"))?;
    postgres.execute("create role closed nologin;\n")?;
    postgres.execute("create database readmodels owner projector;\n")?;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        postgres.execute(&format!(
            "create database in_{encoding} owner projector encoding '{encoding}' locale_provider libc locale 'C' template template0;\n"
        ))?;
    }
    postgres.let_in("host all all 127.0.0.1/32 scram-sha-256")?;
    let port = postgres.port();
    let url = |role: &str, password: &str, database: &str| {
        format!("postgres://{role}:{password}@127.0.0.1:{port}/{database}")
    };
    let host = format!("127.0.0.1:{port}");
    works(&url("projector", PASSWORD, "readmodels"), &[]);
    is_refused(&url("projector", "wrong", "readmodels"), &[], &[&host, "\"projector\"", "password"]);
    is_refused(&url("nobody", PASSWORD, "readmodels"), &[], &[&host, "\"nobody\""]);
    is_refused(
        &url("projector", PASSWORD, "elsewhere"),
        &[],
        &[&host, "\"elsewhere\"", "create the database"],
    );
    is_refused(
        &format!("{}?sslmode=require", url("projector", PASSWORD, "readmodels")),
        &[],
        &[&host, "the server has no TLS", "sslmode=disable"],
    );
    is_refused(
        &format!("{}?connect_timeout=3", url("projector", PASSWORD, "readmodels")),
        &[],
        &["connect_timeout", "10 s"],
    );
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let database = format!("in_{}", encoding.to_lowercase());
        is_refused(&url("projector", PASSWORD, &database), &[], &[&database, encoding, "encoding 'UTF8'"]);
    }
    let (code, said) = asked(
        &format!("postgres://projector@127.0.0.1:{port}/readmodels"),
        "password = \"${file:/nowhere/password}\"",
        &[],
    );
    assert!(code == 2 && said.contains("/nowhere/password"), "{code}: {said}");
    let (code, said) = asked(&url("projector", PASSWORD, "readmodels"), "connections = 2", &[]);
    assert!(code == 2 && said.contains("5 or more"), "{code}: {said}");
    Ok(())
}

#[test]
fn a_server_that_is_not_there_is_named_at_once() -> Result<()> {
    let mut postgres = Postgres::start_with(&[("fsync", "off")])?;
    postgres.stop_fast()?;
    let began = Instant::now();
    let (code, said) = asked(postgres.url(), "", &[]);
    let expected = format!("127.0.0.1:{}: connection refused", postgres.port());
    assert!(code == 3 && said.contains(&expected), "{code}: {said}");
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
    assert!(!said.contains("pool"), "{said}");
    Ok(())
}

/// The password is read again for each connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_password_needs_no_restart() -> Result<()> {
    let postgres = Postgres::start_with(&[("fsync", "off")])?;
    postgres.execute("create role projector login password 'one';\n")?;
    postgres.execute("create database readmodels owner projector;\n")?;
    postgres.let_in("host all all 127.0.0.1/32 scram-sha-256")?;
    let directory = tempfile::tempdir()?;
    let secret = directory.path().join("password");
    std::fs::write(&secret, "one\n")?;
    let url = format!("postgres://projector@127.0.0.1:{}/readmodels", postgres.port());
    let text = format!("url = '{url}'\npassword = \"${{file:{}}}\"", secret.display());
    let store = store::open(&toml::from_str(&text)?).await?;
    store.overview().await?;

    postgres.execute("alter role projector password 'two';\n")?;
    let others =
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'projector';\n";
    postgres.execute(others)?;
    // What was open breaks, and a new one is not let in.
    let refused = loop {
        match store.overview().await {
            Err(error @ StoreError::Setup(_)) => break error,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(refused.kind(), FailureKind::DatabaseSetup);
    let said = refused.to_string();
    assert!(said.contains("\"projector\"") && !said.contains("one") && !said.contains("two"), "{said}");
    std::fs::write(&secret, "two\n")?;
    store.overview().await?;
    Ok(())
}

#[test]
fn a_pooler_in_transaction_mode_is_refused_with_the_reason() -> Result<()> {
    let postgres = Postgres::start_with(&[("fsync", "off")])?;
    postgres.create_database("readmodels")?;
    for mode in ["transaction", "statement"] {
        let pooler = PgBouncer::start(&postgres, &format!("pool_mode = {mode}"))?;
        is_refused(&pooler.url("readmodels"), &[], &["pool", "session mode"]);
        // The more so where other clients keep its sessions moving.
        is_refused(&pooler.url("readmodels"), &[], &["session mode"]);
    }
    Ok(())
}

/// The host's time limits are in force behind a pooler: the server ends a transaction that idles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_session_mode_takes_the_hosts_time_limits() -> Result<()> {
    let postgres = Postgres::start_with(&[("fsync", "off")])?;
    postgres.create_database("readmodels")?;
    let pooler = PgBouncer::start(&postgres, postgres_snippet("pooler"))?;
    let mut settings = settings(&pooler.url("readmodels"));
    settings.idle_in_transaction_timeout = Duration::from_secs(2);
    let projection = Projection::install(store::open(&settings).await?, contract(&numbers())).await?;
    projection.write(&[vec![numeric(PUT, &[1, 1])]]).await?;
    let idle = || -> Result<i64> {
        let idle = "select count(*) from pg_stat_activity where state like 'idle in transaction%';\n";
        Ok(postgres.execute(idle)?.trim().parse()?)
    };
    let stopped = projection.begin().await?;
    assert_eq!(idle()?, 1, "its transaction is open");
    wait_until("the server ends it", || async { Ok(idle()? == 0) }).await?;
    assert!(stopped.commit().await.is_err(), "it was ended");
    projection.write(&[vec![numeric(PUT, &[2, 2])]]).await?;
    Ok(())
}

/// The number in the configuration is the number that is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_connections_are_used_than_are_configured() -> Result<()> {
    let home = Home::postgres()?;
    let mut settings = settings(&home.url());
    settings.connections = 6_u32.try_into()?;
    let store = store::open(&settings).await?;
    let projection = Projection::install(store.clone(), contract(&numbers())).await?;
    let mut snapshots = Vec::new();
    for _ in 0..3 {
        snapshots.push(store.snapshot().await?);
    }
    // The admin API opens a store of its own, in the same process.
    let beside = store::open_to_read(&settings).await?;
    let (mut first, mut second) = (projection.begin().await?, projection.begin().await?);
    let asked: Vec<_> = (0..20)
        .map(|at| {
            let store = if at % 2 == 0 { store.clone() } else { beside.clone() };
            tokio::spawn(async move { store.overview().await.map(drop) })
        })
        .collect();
    let super::home::Session::Postgres(mut observer) = home.session().await? else {
        unreachable!("it is Postgres")
    };
    let count = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'projector'";
    let mut most = 0;
    for task in asked {
        let now: i64 = sqlx::query_scalar(count).fetch_one(&mut observer).await?;
        most = most.max(now);
        task.await??;
    }
    let now: i64 = sqlx::query_scalar(count).fetch_one(&mut observer).await?;
    assert_eq!((most.max(now), now), (6, 6), "at most, and at the end");
    first.failed_and_waiting().await?;
    second.failed_and_waiting().await?;
    Ok(())
}

/// Of several servers one that takes writes; when it is gone, the next one, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_servers_the_writable_one_is_used() -> Result<()> {
    let (mut a, b) = (Postgres::start_with(&[("fsync", "off")])?, Postgres::start_with(&[("fsync", "off")])?);
    for server in [&a, &b] {
        server.create_database("readmodels")?;
    }
    let one = |server: &Postgres| format!("postgres://postgres@127.0.0.1:{}/readmodels", server.port());
    let id_of_b = store::open(&settings(&one(&b))).await?.id();
    let id_of_a = store::open(&settings(&one(&a))).await?.id();
    let set = |to: &'static str| {
        a.set("default_transaction_read_only", to)?;
        while a.execute("show default_transaction_read_only;\n")? != to {}
        anyhow::Ok(())
    };
    set("on")?;
    let both = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/readmodels?target_session_attrs=read-write",
        a.port(),
        b.port()
    );
    assert_eq!(store::open(&settings(&both)).await?.id(), id_of_b, "a takes no writes");

    set("off")?;
    let both = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/readmodels", a.port(), b.port());
    let store = store::open(&settings(&both)).await?;
    assert_eq!(store.id(), id_of_a);
    store.overview().await?;
    a.stop_fast()?;
    wait_until("the other one answers", || async { Ok(store.overview().await.is_ok()) }).await?;
    let sessions = "select count(*) from pg_stat_activity where application_name = 'projector';\n";
    assert_ne!(b.execute(sessions)?.trim(), "0", "nobody asked b");
    Ok(())
}

/// Each SQLSTATE, raised by a real server: whose fault it is, and whether it passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sqlstate_is_told_as_what_it_is() -> Result<()> {
    let home = Home::postgres()?;
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let codes = [
        ("28P01", FailureKind::DatabaseSetup, "password"),
        ("28000", FailureKind::DatabaseSetup, "pg_hba.conf"),
        ("3D000", FailureKind::DatabaseSetup, "create the database"),
        ("42501", FailureKind::DatabaseSetup, "lacks a right"),
        ("26000", FailureKind::DatabaseSetup, "session mode"),
        ("XX001", FailureKind::DatabaseSetup, "backup"),
        ("42P01", FailureKind::Drift, "by hand"),
        ("53100", FailureKind::Database, "disk"),
        ("53300", FailureKind::Database, "max_connections"),
        ("57P01", FailureKind::Database, "stopping or starting"),
        ("57014", FailureKind::Slow, "statement-timeout"),
        ("25006", FailureKind::Database, "standby"),
        ("40P01", FailureKind::Deadlock, "40P01"),
        ("40001", FailureKind::Database, "40001"),
        ("55P03", FailureKind::Locked, "55P03"),
        ("22021", FailureKind::Refused, "raised"),
        ("54000", FailureKind::Refused, "number"),
    ];
    for (code, kind, says) in codes {
        home.by_hand(
            &format!(
                "create or replace function raise_it() returns trigger language plpgsql as
                   $$ begin raise exception 'raised' using errcode = '{code}'; end $$;
                 drop trigger if exists raise_it on some_orders_g1.number;
                 create trigger raise_it before insert on some_orders_g1.number execute function raise_it()"
            ),
            "",
        )
        .await?;
        let error = projection.write(&[vec![numeric(PUT, &[1, 1])]]).await.expect_err(code);
        let said = error.to_string();
        assert_eq!(error.kind(), kind, "{code}: {said}");
        assert!(said.contains(says) && !said.contains("at line"), "{code}: {said}");
        if kind == FailureKind::DatabaseSetup {
            assert!(!kind.advice().contains("by itself:"), "{code}: {}", kind.advice());
        }
    }
    home.by_hand("drop trigger raise_it on some_orders_g1.number", "").await?;
    projection.write(&[vec![numeric(PUT, &[1, 1])]]).await?;
    Ok(())
}

/// A DBA may make the schemas beforehand: then the role needs no right to create any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_made_beforehand_are_taken() -> Result<()> {
    let postgres = Postgres::start_with(&[("fsync", "off")])?;
    postgres.execute("create role projector login;\n")?;
    postgres.create_database("readmodels")?;
    let url = format!("postgres://projector@127.0.0.1:{}/readmodels", postgres.port());
    let refused = store::open(&settings(&url)).await.map(drop).expect_err("it may not create a schema");
    let said = refused.to_string();
    for word in ["\"projector\"", "\"readmodels\"", "grant create on database", "authorization"] {
        assert!(said.contains(word), "{word:?} in {said}");
    }
    assert_eq!(refused.kind(), FailureKind::DatabaseSetup);
    let admin = format!("postgres://postgres@127.0.0.1:{}/readmodels", postgres.port());
    let by_hand = |sql: &str| {
        let admin = admin.clone();
        let sql = sql.to_owned();
        async move {
            use sqlx::{Connection, Executor};
            let mut session = sqlx::PgConnection::connect(&admin).await?;
            session.execute(sqlx::AssertSqlSafe(sql)).await?;
            anyhow::Ok(())
        }
    };
    by_hand("create schema projector authorization projector").await?;
    let store = store::open(&settings(&url)).await?;
    // Those of the projection: one is the role's own, in the other it may create.
    by_hand(
        "create schema some_orders_g1 authorization projector; create schema some_orders;
             grant usage, create on schema some_orders to projector",
    )
    .await?;
    let projection = Projection::install(store, contract(&numbers())).await?;
    projection.write(&[vec![numeric(PUT, &[1, 1])]]).await?;
    let asked = projector_store::Requester::new("a test".into(), None);
    projection.store.drop_projection("some-orders", &asked).await?;
    Ok(())
}
