//! Whole messages, as a newcomer reads them who has one thing wrong, and what `--help` says.
//!
//! Each stands in a file of `tests/it/kafka/messages`, with names in capitals for what differs from run to run.
//! `UPDATE_EXPECT=1 cargo xtask test -- --test it kafka::messages` writes them anew: read the difference as a
//! stranger would.

use std::path::PathBuf;
use std::process::Command;

use projector_config::Limits;
use projector_test_servers::{Listener, Postgres, SecuredKafka};
use toml::{Table, Value};

use crate::harness::{Line, Platform, Plugins, ReadModel, SALES_BY_COUNTRY, guest, load};

#[track_caller]
fn assert_said(name: &str, said: &str) {
    let file = format!("{}/../tests/it/kafka/messages/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    expect_test::expect_file![PathBuf::from(file)].assert_eq(said);
}

/// What differs from run to run, and what stands for it.
struct Names(Vec<(String, &'static str)>);

impl Names {
    fn of(platform: &Platform) -> Names {
        Names(vec![
            (platform.directory().display().to_string(), "DIRECTORY"),
            (platform.brokers().to_owned(), "BROKERS"),
            (platform.topic(""), "PREFIX."),
            (env!("CARGO_PKG_VERSION").to_owned(), "VERSION"),
        ])
    }

    fn and(mut self, text: impl Into<String>, name: &'static str) -> Names {
        self.0.push((text.into(), name));
        self
    }

    /// One paragraph in lines of 100: frames are left out, since they are broken where a path ends.
    fn paragraph(&self, said: &str) -> String {
        let bare: String = said.chars().map(|c| if "│×╰─▶╭┬·".contains(c) { ' ' } else { c }).collect();
        let text = bare.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut text = text.replace("/ ", "/").replace("- ", "-");
        for (value, name) in &self.0 {
            text = text.replace(value, name);
        }
        let mut lines = vec![String::new()];
        for word in text.split(' ') {
            match lines.last_mut() {
                Some(line) if line.is_empty() => line.push_str(word),
                Some(line) if line.len() + word.len() < 100 => *line += &format!(" {word}"),
                _ => lines.push(word.to_owned()),
            }
        }
        lines.join("\n") + "\n"
    }

    /// A line of a host's log: its level and message, and these fields.
    fn line(&self, line: &Line, fields: &[&str]) -> String {
        let fields = fields.iter().map(|name| match line.number(name) {
            Some(number) => format!("{name}={number}"),
            None => format!("{name}={:?}", line.field(name)),
        });
        let text = [format!("{} {}", line.field("level"), line.message())].into_iter().chain(fields);
        self.paragraph(&text.collect::<Vec<_>>().join(" "))
    }
}

#[track_caller]
fn assert_command_says(name: &str, platform: &Platform, arguments: &[&str], names: Names) {
    let (code, _, said) = platform.command(arguments);
    assert_said(name, &format!("exit code {code}\n{}", names.paragraph(&said)));
}

/// Whose configuration names these logical topics alone.
fn platform(name: &str, plugins: &[&'static str], topics: &[&str]) -> Platform {
    let platform = Platform::new(name, plugins, ReadModel::sqlite());
    let named = topics.iter().map(|topic| ((*topic).to_owned(), Value::from(platform.topic(topic))));
    let named: Table = named.collect();
    platform.set(&["kafka", "topics"], named)
}

const NOBODY: &str = "postgres://me:secret@127.0.0.1:1/readmodels";

#[test]
fn a_database_that_is_down() {
    let platform = platform("m-down", &[], &[]).set(&["store", "url"], NOBODY);
    assert_command_says("database-down", &platform, &["status"], Names::of(&platform));
    let host = platform.start_host("waiting");
    let line = host.log().wait_for("that it waits", |line| line.message().starts_with("retrying"));
    let fields = ["store", "kind", "error", "attempts", "advice"];
    assert_said("database-down-host", &Names::of(&platform).line(&line, &fields));
    host.sigterm();
}

#[test]
fn a_password_that_is_wrong() {
    let postgres = Postgres::start_unflushed().unwrap();
    postgres.execute("create role projector login password 'right';\n").unwrap();
    postgres.create_database("readmodels").unwrap();
    postgres.let_in("host all projector 127.0.0.1/32 scram-sha-256").unwrap();
    let address = format!("127.0.0.1:{}", postgres.port());
    let platform = platform("m-password", &[], &[])
        .set(&["store", "url"], format!("postgres://projector:wrong@{address}/readmodels"));
    for command in ["run", "status"] {
        let names = Names::of(&platform).and(&address, "DATABASE");
        // The host's log lines before it gives up have times.
        let (code, _, said) = platform.command(&[command]);
        let said = said.split_once("Error:").or(said.split_once("×")).map_or(&*said, |(_, said)| said);
        assert_said(
            &format!("wrong-password-{command}"),
            &format!("exit code {code}\n{}", names.paragraph(said)),
        );
    }
}

/// Nobody at the brokers' address, and nothing to run: the host says what it was given.
#[test]
fn nothing_where_the_brokers_should_be_and_no_plugin() {
    let plugins = Plugins::new(&[]);
    let platform = platform("m-brokers", &[], &[])
        .set(&["plugins", "directory"], plugins.path())
        .set(&["kafka", "brokers"], "127.0.0.1:1");
    let names = || Names::of(&platform).and(plugins.path(), "PLUGINS");
    let host = platform.start_host("lost");
    let start = host.log().wait_for("its start", |line| line.message() == "host starts");
    let empty = host.log().wait_for("its directory", |line| line.message().contains("no .wasm file"));
    let waits = host.log().wait_for("that it waits", |line| line.message().starts_with("retrying"));
    let lines = [
        names().line(&start, &["brokers", "databases", "plugin_directory", "plugins"]),
        names().line(&empty, &["plugin_directory"]),
        names().line(&waits, &["kind", "error", "attempts", "advice"]),
    ];
    assert_said("wrong-brokers-host", &lines.concat());
    host.sigterm();
    assert_command_says("wrong-brokers-status", &platform, &["status"], names());
}

#[test]
fn a_topic_that_is_mistyped() {
    let platform = platform("m-topic", &[SALES_BY_COUNTRY], &[projector_workload::ORDER_CONFIRMED]);
    platform.create_topics(1);
    let wrong = platform.topic("orders.order-confirmd.v1");
    let platform = platform.set(&["kafka", "topics", projector_workload::ORDER_CONFIRMED], wrong);
    let host = platform.start_host("waiting");
    let line = host.log().wait_for("that the topic is missing", |line| line.field("kind") == "no-topic");
    let fields = ["projection", "kind", "error", "attempts", "advice"];
    assert_said("mistyped-topic-host", &Names::of(&platform).line(&line, &fields));
    host.sigterm();
}

#[test]
fn what_is_wrong_in_the_table_of_kafka() {
    let base = || platform("m-kafka", &[], &[]);
    let property = base().set(&["kafka", "properties", "fetch.wait.max"], "100");
    assert_command_says("wrong-property", &property, &["status"], Names::of(&property));
    let missing = base().set(&["kafka", "tls", "ca"], "/nowhere/ca.pem");
    assert_command_says("missing-ca", &missing, &["status"], Names::of(&missing));
    let kafka = SecuredKafka::shared();
    let sasl = base()
        .set(&["kafka", "brokers"], kafka.bootstrap(Listener::Plain))
        .set(&["kafka", "sasl", "mechanism"], "PLAIN")
        .set(&["kafka", "sasl", "username"], "me")
        .set(&["kafka", "sasl", "password"], "secret");
    let names = Names::of(&sasl).and(kafka.bootstrap(Listener::Plain), "LISTENER");
    assert_command_says("sasl-against-plain", &sasl, &["status"], names);
}

#[test]
fn names_that_nothing_has() {
    let platform = platform("m-typo", &[SALES_BY_COUNTRY], &[projector_workload::ORDER_CONFIRMED])
        .set(&["projections", "sales-by-contry", "lanes"], 2)
        .set(&["stores", "aside", "url"], "sqlite://aside.db");
    platform.create_topics(1);
    let host = platform.start_host("warning");
    let warned = |part: &str| {
        host.log().wait_for(part, |line| {
            line.message().contains("has no effect") && line.field("warning").contains(part)
        })
    };
    let lines =
        ["sales-by-contry", "aside"].map(|part| Names::of(&platform).line(&warned(part), &["warning"]));
    assert_said("names-without-effect", &lines.concat());
    host.sigterm();
}

/// There is no database yet, and asking makes none.
#[test]
fn a_plan_on_a_new_sqlite_file() {
    let platform = platform("m-plan", &[], &[projector_workload::ORDER_CONFIRMED]);
    platform.create_topics(1);
    let component = guest(SALES_BY_COUNTRY);
    let digest = load(&component, &Limits::default()).digest;
    let file = platform.directory().join("sales-by-country.wasm");
    std::fs::write(&file, component).unwrap();
    let names = Names::of(&platform).and(&digest[..12], "DIGEST");
    assert_command_says("plan-on-a-new-file", &platform, &["plan", &file.display().to_string()], names);
}

/// `--help` of the program and of each command.
#[test]
fn what_help_says() {
    let help = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_projector")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = help(&["--help"]);
    let commands = first.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 10, "{first}");
    assert_said("help", &first);
    for command in commands.iter().filter(|command| **command != "help") {
        assert_said(&format!("help-{command}"), &help(&[command, "--help"]));
    }
}
