//! What commands print, how much of it, and with what exit code they end. None of this needs a broker.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::Result;
use projector_core::counters::OutcomeCounts;
use projector_core::event::{Event, Header, Position};
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_store::{self as store, Advance, DeadLetter, Writes};
use tempfile::TempDir;

use super::projection::{Projection, contract, numbers, partition};
use super::settings;
use crate::harness::{ORDER_SEARCH, guest};

const PROJECTION: &str = "some-orders";
const SECRET: &str = "hunter2";

/// A configuration, and what it names: a SQLite file, an empty plugin directory, and no broker.
pub(super) struct Desk {
    directory: TempDir,
}

impl Desk {
    pub(super) fn new() -> Result<Self> {
        let desk = Self { directory: tempfile::tempdir()? };
        std::fs::create_dir(desk.path("plugins"))?;
        desk.write("projector.toml", &configuration("sqlite://store.db"))?;
        Ok(desk)
    }

    /// With a projection that is installed, and one dead letter with this payload.
    async fn with_dead_letter(payload: Vec<u8>) -> Result<Self> {
        let desk = Self::new()?;
        let store = store::open(&settings(&format!("sqlite://{}", desk.path("store.db").display()))).await?;
        let projection = Projection::install(store.clone(), contract(&numbers())).await?;
        let event = Event {
            position: Position { partition: partition(), offset: 0 },
            topic: 0,
            timestamp_ms: Some(1_700_000_000_123),
            key: Some(b"k".to_vec()),
            value: Some(payload),
            also: Vec::new(),
            topic_name: "t".into(),
            oversize_bytes: None,
            headers: vec![Header { name: "trace".into(), value: Some(vec![b'h'; 10_000]) }],
        };
        let failure = Failure::new(FailureKind::Trap, "trap", "because ".repeat(200));
        let advance = Advance {
            partition: partition(),
            expected: 0,
            next: 1,
            counts: OutcomeCounts { dead: BTreeMap::from([("trap".into(), 1)]), ..OutcomeCounts::default() },
        };
        let dead = vec![DeadLetter { event: &event, failure: &failure, blocks: None, moved_by: None }];
        let positions = vec![&event.position];
        projection.commit(&Writes { advances: vec![advance], positions, dead, ..Writes::default() }).await?;
        store.close().await;
        Ok(desk)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn write(&self, name: &str, content: &str) -> Result<()> {
        Ok(std::fs::write(self.path(name), content)?)
    }

    /// `projector` with this configuration, in the desk's directory.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_projector"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("PROJECTOR_CONFIG", "projector.toml")
            .env_remove("COLUMNS")
            .stdin(Stdio::null());
        command
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    /// Standard output of a command that succeeds.
    #[track_caller]
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).unwrap();
        assert!(output.status.success(), "projector {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

pub(super) fn configuration(store: &str) -> String {
    format!(
        "[kafka]\nbrokers = \"127.0.0.1:1\"\n[plugins]\ndirectory = \"plugins\"\n[store]\nurl = \"{store}\"\n"
    )
}

pub(super) fn all_said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, b"\n", &*output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_of_seven_megabytes_is_shown_in_part_and_written_whole() -> Result<()> {
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(7_000_000)).into_bytes();
    let desk = Desk::with_dead_letter(payload.clone()).await?;
    let shown = desk.said(&["dlq", "show", PROJECTION, "1"]);
    assert!(shown.len() < 32 * 1024, "{} bytes are printed", shown.len());
    assert!(shown.contains("The payload has 7000011 bytes: --full prints all of it, --payload-to FILE"));
    assert!(!shown.contains(&"h".repeat(1_001)), "the header is cut as well");
    let all = desk.said(&["dlq", "show", PROJECTION, "1", "--full"]);
    assert!(all.contains(&"x".repeat(7_000_000)) && all.contains(&"h".repeat(10_000)));
    let written = desk.said(&["dlq", "show", PROJECTION, "1", "--payload-to", "payload.json"]);
    assert!(written.contains("7000011 bytes, is in payload.json"), "{written}");
    assert!(std::fs::read(desk.path("payload.json"))? == payload, "byte for byte");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_ends_early_is_no_failure_and_no_panic() -> Result<()> {
    let desk = Desk::with_dead_letter(vec![b'x'; 200_000]).await?;
    std::fs::write(desk.path("order-search.wasm"), guest(ORDER_SEARCH))?;
    for arguments in [
        &["--help"][..],
        &["dlq", "show", "--help"],
        &["dlq", "list"],
        &["dlq", "list", "--output", "json"],
        &["dlq", "show", PROJECTION, "1", "--full"],
        &["dlq", "show", PROJECTION, "1", "--output", "json"],
        &["history", PROJECTION],
        &["operations"],
        &["inspect", "order-search.wasm", "--explain"],
        &["pause", PROJECTION, "--reason", "a test"],
        &["resume", PROJECTION],
    ] {
        // The reader is gone before anything is written, so the first write fails.
        for both in [false, true] {
            let (reader, writer) = std::io::pipe()?;
            drop(reader);
            let mut command = desk.command(arguments);
            command.stderr(if both { Stdio::from(writer.try_clone()?) } else { Stdio::piped() });
            let output = command.stdout(writer).spawn()?.wait_with_output()?;
            assert_eq!(output.status.code(), Some(0), "projector {arguments:?}: {}", all_said(&output));
            assert_eq!(all_said(&output), "\n", "projector {arguments:?}");
        }
    }
    // What failed is told by the exit code all the same.
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = desk.command(&["dlq", "show", PROJECTION, "7"]);
    let status = command.stdout(writer.try_clone()?).stderr(writer).status()?;
    assert_eq!(status.code(), Some(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_as_wide_as_the_terminal_whatever_is_in_them() -> Result<()> {
    let desk = Desk::with_dead_letter(b"x".to_vec()).await?;
    let reason = "because of the very long story ".repeat(100);
    desk.said(&["stop", PROJECTION, "--reason", &reason]);
    desk.said(&["pause", PROJECTION, "--reason", &"x".repeat(3_000)]);
    for arguments in [&["history", PROJECTION][..], &["operations"], &["dlq", "list"]] {
        let widest = |output: Output| -> usize {
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines().map(|line| line.chars().count()).max().unwrap()
        };
        let wide = widest(desk.run(arguments)?);
        assert!((80..=160).contains(&wide), "projector {arguments:?}: {wide} columns");
        let narrow = widest(desk.command(arguments).env("COLUMNS", "100").output()?);
        assert!(narrow <= 100, "projector {arguments:?}: {narrow} columns");
    }
    assert!(desk.said(&["history", PROJECTION]).contains("use --output json"));
    assert!(desk.said(&["history", PROJECTION, "--output", "json"]).contains(&reason));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instants_in_json_are_rfc_3339() -> Result<()> {
    let desk = Desk::with_dead_letter(b"x".to_vec()).await?;
    desk.said(&["pause", PROJECTION, "--reason", "a test"]);
    let mut seen = 0;
    for arguments in [&["history", PROJECTION][..], &["operations"], &["dlq", "list"]] {
        let json: serde_json::Value =
            serde_json::from_str(&desk.said(&[arguments, &["--output", "json"]].concat()))?;
        for (name, value) in json.as_array().unwrap().iter().flat_map(|row| row.as_object().unwrap()) {
            if name.ends_with("_at") && !value.is_null() {
                let text = value.as_str().unwrap_or_else(|| panic!("{name} = {value}"));
                assert!(text.starts_with("20") && text.ends_with('Z') && text.len() == 27, "{name} = {text}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 5, "{seen} instants prove little");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_section_that_has_no_effect_is_a_warning_with_the_nearest_name() -> Result<()> {
    let desk = Desk::with_dead_letter(b"x".to_vec()).await?;
    let wrong = "[stores.spare]\nurl = \"sqlite://spare.db\"\n[projections.some-ordrs]\nlanes = 1\n\
                 [projections.some-orders]\ntopics = [\"tt\"]\n";
    desk.write("projector.toml", &format!("{}{wrong}", configuration("sqlite://store.db")))?;
    let said = all_said(&desk.run(&["status"])?);
    // A host says it as well, once the plugins are loaded.
    let mut host = desk.command(&["run", "--log-format", "json"]).stderr(Stdio::piped()).spawn()?;
    let lines = BufReader::new(host.stderr.take().unwrap()).lines().map_while(Result::ok);
    let told: Vec<String> = lines.filter(|line| line.contains("has no effect")).take(2).collect();
    host.kill()?;
    host.wait()?;
    assert!(told.iter().any(|line| line.contains("did you mean `some-orders`?")), "{told:?}");
    for warning in [
        "[projections.some-ordrs] has no effect: no plugin and no database has a projection of this name; did you mean `some-orders`?",
        "projections.some-orders.topics names `tt`, which the plugin does not read",
        "[stores.spare] has no effect",
    ] {
        assert!(said.contains(&format!("warning: {warning}")), "{said}");
    }
    Ok(())
}

/// Every command that takes a projection, with all that it needs.
fn of_projection(name: &str) -> Vec<Vec<String>> {
    let commands = [
        "history NAME",
        "rollback NAME",
        "rebuild NAME",
        "diff NAME",
        "promote NAME",
        "retire NAME",
        "stop NAME --reason r",
        "start NAME",
        "drop NAME --reason r",
        "pause NAME --reason r",
        "resume NAME",
        "dlq show NAME 1",
        "dlq retry NAME --all",
        "dlq discard NAME --all --reason r",
        "dlq erase NAME --key k --reason r",
        "backfill NAME --from lines.jsonl",
    ];
    let words = |command: &&str| command.replace("NAME", name).split(' ').map(str::to_owned).collect();
    commands.iter().map(words).collect()
}

/// Runs them side by side, and compares their exit codes; `words` have to be in what they say.
#[track_caller]
fn assert_codes(desk: &Desk, commands: &[Vec<String>], code: i32, words: &str) {
    let mut wrong = Vec::new();
    for some in commands.chunks(10) {
        thread::scope(|scope| {
            let run = |command: &Vec<String>| {
                let arguments: Vec<String> = command.clone();
                scope.spawn(move || {
                    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                    desk.run(&arguments).unwrap()
                })
            };
            let running: Vec<_> = some.iter().map(run).collect();
            for (command, running) in some.iter().zip(running) {
                let output = running.join().unwrap();
                let said = all_said(&output);
                if output.status.code() != Some(code) || !said.contains(words) || said.contains("panicked") {
                    wrong.push(format!("projector {command:?}: {:?}, and not {code}: {said}", output.status));
                }
            }
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn commands(lines: &[&str]) -> Vec<Vec<String>> {
    lines.iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_are_those_of_the_readme() -> Result<()> {
    let desk = Desk::with_dead_letter(b"x".to_vec()).await?;
    desk.write("lines.jsonl", "")?;
    desk.write("broken.wasm", "no component")?;
    // 0: done.
    assert_codes(
        &desk,
        &commands(&["--help", "--version", "help dlq", "history some-orders", "dlq list"]),
        0,
        "",
    );
    assert_codes(
        &desk,
        &commands(&["operations", "pause some-orders --reason r", "resume some-orders"]),
        0,
        "",
    );
    // 1: the answer is no.
    let refused = commands(&[
        "inspect broken.wasm",
        "plan broken.wasm",
        "deploy broken.wasm",
        "component broken.wasm -o out.wasm",
        "drop some-orders --reason r",
        "rollback some-orders",
    ]);
    assert_codes(&desk, &refused, 1, "");
    assert_codes(
        &desk,
        &commands(&["dlq show some-orders 1 --payload-to no/such/directory"]),
        1,
        "cannot be written",
    );
    // 2: the question is wrong.
    let wrong = commands(&[
        "nonsense",
        "status --output xml",
        "history",
        "stop some-orders",
        "skip some-orders --partition t --to 1 --reason r",
        "dlq retry some-orders",
        "dlq retry some-orders 7",
        "dlq list --since yesterday",
        "run --log a=b=c",
        "history some-orders --config no.toml",
        "retire some-orders",
        "diff some-orders --generation 9",
    ]);
    assert_codes(&desk, &wrong, 2, "");
    assert_codes(&desk, &of_projection("some-order"), 2, "");
    let unreadable =
        commands(&["plan no.wasm", "deploy no.wasm", "inspect no.wasm", "component no.wasm -o out.wasm"]);
    assert_codes(&desk, &unreadable, 2, "cannot be read");
    assert_codes(&desk, &commands(&["status some-order"]), 2, "no projection is called");
    // Without a store there is none either, and nothing makes one.
    let elsewhere = Desk::new()?;
    assert_codes(
        &elsewhere,
        &commands(&["history some-orders", "dlq list", "operations", "pause some-orders --reason r"]),
        2,
        "no host has ever run",
    );
    // Nothing is installed; that no broker answers is said all the same.
    assert_codes(&elsewhere, &commands(&["status"]), 3, "no broker answers");
    assert!(!elsewhere.path("store.db").exists());
    // 3: not reached.
    assert_codes(&desk, &commands(&["skip some-orders --partition t/0 --to 1 --reason r"]), 3, "");
    Ok(())
}

#[test]
fn a_database_that_does_not_answer_is_exit_code_3() -> Result<()> {
    let desk = Desk::new()?;
    desk.write("projector.toml", &configuration(&format!("postgres://me:{SECRET}@127.0.0.1:1/readmodel")))?;
    desk.write("lines.jsonl", "")?;
    let mut all = of_projection(PROJECTION);
    all.extend(commands(&["status", "operations", "dlq list"]));
    assert_codes(&desk, &all, 3, "database");
    Ok(())
}

#[test]
fn a_wrong_configuration_is_exit_code_2_whatever_the_command() -> Result<()> {
    let desk = Desk::new()?;
    desk.write("lines.jsonl", "")?;
    desk.write("projector.toml", &configuration("sqlite://store.db").replace("brokers", "brokrs"))?;
    let mut all = of_projection(PROJECTION);
    all.extend(commands(&[
        "run",
        "status",
        "operations",
        "dlq list",
        "plan lines.jsonl",
        "deploy lines.jsonl",
    ]));
    all.extend(commands(&["skip some-orders --partition t/0 --to 1 --reason r"]));
    assert_codes(&desk, &all, 2, "did you mean `brokers`?");
    Ok(())
}

#[test]
fn no_command_prints_a_secret() -> Result<()> {
    let desk = Desk::new()?;
    let secrets = format!(
        "[kafka]\nbrokers = \"127.0.0.1:1\"\n[kafka.sasl]\nmechanism = \"PLAIN\"\nusername = \"me\"\n\
         password = \"{SECRET}\" # {SECRET}\n[kafka.tls]\nkey-password = \"{SECRET}\"\n\
         [plugins]\ndirectory = \"plugins\"\n[store]\nurl = \"postgres://me:{SECRET}@127.0.0.1:1/db\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[admin.tokens.ann]\ntoken = \"{SECRET}\"\n"
    );
    let mistakes = [
        ("", ""),
        ("password =", "pasword ="),
        ("username =", "user-name ="),
        ("key-password =", "key-pasword ="),
        ("token =", "tokn ="),
        ("url =", "ur ="),
        ("listen = \"127.0.0.1:0\"", "listen = 7"),
        ("mechanism = \"PLAIN\"", "mechanism = \"PLAN\""),
        ("127.0.0.1:1/db", "127.0.0.1:port/db"),
        ("postgres://", "postgers://"),
        ("127.0.0.1:1/db", "[127.0.0.1/db"),
        ("\" # ", " # "),
    ];
    for (right, wrong) in mistakes {
        desk.write("projector.toml", &secrets.replacen(right, wrong, 1))?;
        for arguments in
            [&["status"][..], &["history", "x"], &["dlq", "list"], &["pause", "x", "--reason", "r"]]
        {
            let output = desk.run(arguments)?;
            let said = all_said(&output);
            assert!(!output.status.success(), "projector {arguments:?} with {wrong:?}: {said}");
            assert!(!said.contains(SECRET), "projector {arguments:?} with {wrong:?}: {said}");
        }
    }
    Ok(())
}
