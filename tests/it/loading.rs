//! What is not a plugin is refused before it runs, and the refusal names the reason. `projector
//! inspect` checks a file just as the host does.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use wit_parser::Resolve;

use crate::harness::{
    Guest, Host, Plugins, SALES_BY_COUNTRY, WIT, bomb, component, contract, describing, descriptor,
    malicious, seed,
};

/// A directory for components, and the command that looks at them.
struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench { directory: TempDir::with_prefix("projector-loading-").unwrap() }
    }

    fn inspect(&self, bytes: &[u8]) -> Output {
        let file = self.directory.path().join("offered.wasm");
        fs::write(&file, bytes).unwrap();
        inspect(&file, "json")
    }

    /// Refused, with exit code 1; returns the reason, on one line.
    #[track_caller]
    fn refusal(&self, bytes: &[u8]) -> String {
        let output = self.inspect(bytes);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{} {said}", output.status);
        assert!(output.stdout.is_empty(), "it was shown, and refused");
        one_line(&said)
    }
}

fn inspect(file: &Path, output: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_projector"))
        .args(["inspect", "--output", output])
        .arg(file)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// The report without its frame and line breaks.
fn one_line(report: &str) -> String {
    let plain = |line: &str| line.trim().trim_start_matches(['×', '│', '╰', '─', '▶']).trim().to_owned();
    report.lines().map(plain).collect::<Vec<_>>().join(" ").trim().to_owned()
}

/// Whatever the report's line breaks.
fn says(reason: &str, words: &str) -> bool {
    let close = |text: &str| text.split_whitespace().collect::<String>();
    close(reason).contains(&close(words))
}

#[track_caller]
fn assert_says(reason: &str, words: &[&str]) {
    for words in words {
        assert!(says(reason, words), "{words:?} is not in: {reason}");
    }
}

/// The hand-made guest of these tests is a plugin as it is: what is refused below is refused for
/// what was done to it.
#[test]
fn a_sound_component_is_shown() {
    let output = Bench::new().inspect(&describing(&descriptor("sound")).component());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["descriptor"]["name"], "sound");
}

#[test]
fn a_table_with_lineage_is_shown_as_one() {
    let mut declared: Value = serde_json::from_str(&descriptor("sound")).unwrap();
    let bench = Bench::new();
    for lineage in [false, true] {
        declared["tables"][0]["lineage"] = lineage.into();
        let component = describing(&declared.to_string()).component();
        let shown: Value = serde_json::from_slice(&bench.inspect(&component).stdout).unwrap();
        let in_json = shown["descriptor"]["tables"][0].get("lineage");
        assert_eq!(in_json, lineage.then_some(&Value::Bool(true)));
        let text = inspect(&bench.directory.path().join("offered.wasm"), "text");
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert_eq!(text.contains("lineage, hidden from readers"), lineage, "{text}");
    }
}

/// A crash would end by a signal, or with a panic's exit code.
#[track_caller]
fn shown_or_refused(output: &Output, what: &str) -> bool {
    let said = one_line(&String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.signal(), None, "{what}: {said}");
    assert!(!said.contains("panicked") && !said.contains("the compiler crashed"), "{what}: {said}");
    match output.status.code() {
        Some(0) => true,
        Some(1) => {
            assert!(said.contains("is refused: "), "{what}: {said}");
            false
        }
        _ => panic!("{what}: {} {said}", output.status),
    }
}

/// Fault 28.
#[test]
fn spoilt_bytes_are_refused_and_never_a_crash() {
    const MUTATIONS: usize = 300;
    let bench = Bench::new();
    let sound = describing(&descriptor("sound")).component();
    let mut rng = StdRng::seed_from_u64(seed(28));
    let mut shown = 0;
    for mutation in 0..MUTATIONS {
        let mut bytes = sound.clone();
        let at = rng.random_range(0..bytes.len());
        let what = match rng.random_range(0..5) {
            0 => {
                bytes[at] ^= 1 << rng.random_range(0..8);
                format!("a bit of byte {at} flipped")
            }
            1 => {
                bytes[at] = rng.random();
                format!("byte {at} replaced")
            }
            2 => {
                bytes.truncate(at);
                format!("cut at {at}")
            }
            3 => {
                let end = bytes.len().min(at + rng.random_range(1..64));
                bytes.drain(at..end);
                format!("{at}..{end} left out")
            }
            _ => {
                let end = bytes.len().min(at + rng.random_range(1..64));
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
                format!("{at}..{end} doubled")
            }
        };
        shown +=
            usize::from(shown_or_refused(&bench.inspect(&bytes), &format!("mutation {mutation}: {what}")));
    }
    println!("{shown} of {MUTATIONS} were sound components all the same");
    assert!(shown < MUTATIONS / 2, "the mutations hurt nobody");
}

/// Fault 28: the same for a component that an author would ship.
#[test]
fn half_a_component_is_refused() {
    let bench = Bench::new();
    let plugins = Plugins::new(&[SALES_BY_COUNTRY]);
    let whole = fs::read(plugins.directory().join("sales-by-country.wasm")).unwrap();
    assert!(shown_or_refused(&bench.inspect(&whole), "all of it"));
    let mut rng = StdRng::seed_from_u64(seed(280));
    for part in 0..12 {
        let most = whole.len() * (part + 1) / 12;
        let length = rng.random_range(0..most);
        assert!(
            !shown_or_refused(&bench.inspect(&whole[..length]), &format!("{length} bytes")),
            "{length} bytes were enough"
        );
    }
    assert_says(&bench.refusal(b""), &["the file is not a WebAssembly component"]);
    assert_says(&bench.refusal(b"#!/bin/sh\necho wasm\n"), &["the file is not a WebAssembly component"]);
    assert_says(
        &bench.refusal(b"\0asm\x0d\0\x01\0"),
        &["the component does not export what `wit/v1` requires"],
    );
}

/// Fault 28.
#[test]
fn a_core_module_is_refused_with_the_command_that_helps() {
    let module = wat::parse_str(describing(&descriptor("sound")).text_format()).unwrap();
    assert_says(&Bench::new().refusal(&module), &["the file is a core module", "`projector component"]);
}

/// `source` beside the contract, and the module in its world `w`.
fn in_world(source: &[&str], module: &str) -> Vec<u8> {
    let mut resolve = contract();
    for (at, package) in source.iter().enumerate() {
        resolve.push_source(&format!("{at}.wit"), package).unwrap();
    }
    component(module, &resolve, "test:guest/w")
}

/// The sound guest's module, with an import that it calls in every event.
fn importing(import: &str) -> String {
    let module = describing(&descriptor("sound")).text_format();
    let module = module.replacen("(module", &format!("(module {import}"), 1);
    module.replacen("(global.set $calls", "(drop (call $forbidden))\n(global.set $calls", 1)
}

/// Fault 28.
#[test]
fn an_import_other_than_log_is_refused_by_name() {
    let bench = Bench::new();
    let clock = in_world(
        &[
            "package wasi:clocks@0.2.6; interface monotonic-clock { now: func() -> u64; }",
            "package test:guest; world w { include projector:plugin/projection@1.0.0-draft;
             import wasi:clocks/monotonic-clock@0.2.6; }",
        ],
        &importing(r#"(import "wasi:clocks/monotonic-clock@0.2.6" "now" (func $forbidden (result i64)))"#),
    );
    let reason = bench.refusal(&clock);
    assert_says(
        &reason,
        &["the plugin imports `wasi:clocks/monotonic-clock@0.2.6`", "an event carries its own time"],
    );

    let function = in_world(
        &[
            "package test:guest; world w { include projector:plugin/projection@1.0.0-draft; import random: func() -> u64; }",
        ],
        &importing(r#"(import "$root" "random" (func $forbidden (result i64)))"#),
    );
    assert_says(&bench.refusal(&function), &["the plugin imports `random`"]);

    // A forbidden import by the name of an allowed one.
    let disguised = in_world(
        &["package test:guest; world w { import log: func() -> u64; export describe: func() -> string; }"],
        r#"(module (import "$root" "log" (func $log (result i64))) (memory (export "memory") 1)
             (func (export "describe") (result i32) (drop (call $log)) (i32.const 8)))"#,
    );
    assert_says(&bench.refusal(&disguised), &["`log`"]);

    let smuggled = wat::parse_str(
        r#"(component (import "projector:plugin/types@1.0.0-draft" (instance (export "now" (func (result u64))))))"#,
    );
    assert_says(&bench.refusal(&smuggled.unwrap()), &["projector:plugin/types@1.0.0-draft", "`now`"]);
}

/// Fault 28.
#[test]
fn another_version_of_the_contract_is_refused() {
    let bench = Bench::new();
    let read = |file: &str| fs::read_to_string(Path::new(WIT).join(file)).unwrap();
    let both = read("types.wit") + &read("projection.wit");
    let newer = format!(
        "package projector:plugin@2.0.0; {}",
        both.replace("package projector:plugin@1.0.0-draft;", "")
    );
    let mut resolve = Resolve::new();
    resolve.push_source("newer.wit", &newer).unwrap();
    let module = describing(&descriptor("sound")).text_format();
    let reason = bench.refusal(&component(&module, &resolve, "projector:plugin/projection"));
    assert_says(&reason, &["another version of the contract", "projector:plugin/types@2.0.0"]);

    let without = in_world(
        &["package test:guest; world w { export describe: func() -> string; }"],
        r#"(module (memory (export "memory") 1) (func (export "describe") (result i32) (i32.const 8)))"#,
    );
    assert_says(
        &bench.refusal(&without),
        &["the component does not export what `wit/v1` requires", "project"],
    );

    let another_shape = in_world(
        &[
            "package test:guest; world w { export describe: func() -> string; export project: func() -> string; }",
        ],
        r#"(module (memory (export "memory") 1) (func (export "describe") (result i32) (i32.const 8))
             (func (export "project") (result i32) (i32.const 8)))"#,
    );
    assert_says(
        &bench.refusal(&another_shape),
        &["the component does not export what `wit/v1` requires", "project"],
    );
}

/// Fault 28.
#[test]
fn a_describe_that_does_not_answer_is_refused() {
    let bench = Bench::new();
    let guest = |code: &str| Guest::describing("{}").describe(code).component();
    for (code, words) in [
        ("(loop $forever (br $forever)) (unreachable)", "limit (fuel)"),
        ("(unreachable)", "trap (trap)"),
        // A string of two gigabytes; and one that is beyond the memory.
        (
            "(i32.store (i32.const 64) (i32.const 0)) (i32.store (i32.const 68) (i32.const 0x7fffffff)) (i32.const 64)",
            "limit (output)|trap (trap)",
        ),
        ("(i32.const 0x7fffffff)", "trap (trap)"),
        // A megabyte of zeros is within the limits of an event, and no descriptor.
        (
            "(i32.store (i32.const 64) (i32.const 0)) (i32.store (i32.const 68) (i32.const 0x00100000)) (i32.const 64)",
            "descriptor",
        ),
        // Invalid UTF-8.
        (
            "(i32.store (i32.const 64) (i32.const 68)) (i32.store (i32.const 68) (i32.const 2)) (i32.store8 (i32.const 68) (i32.const 0xff)) (i32.const 64)",
            "trap (trap)",
        ),
    ] {
        let reason = bench.refusal(&guest(code));
        assert!(words.split('|').any(|words| says(&reason, words)), "{code}: {reason}");
    }
    for (descriptor, words) in [
        ("", "the plugin's descriptor is not valid"),
        ("[]", "the plugin's descriptor is not valid"),
        ("{\"name\": \"\u{0}\"}", "the plugin's descriptor is not valid"),
        (&"[".repeat(100_000), "the plugin's descriptor is not valid"),
    ] {
        assert_says(&bench.refusal(&Guest::describing(descriptor).component()), &[words]);
    }
}

/// What a host says of the only file in its directory, which it must refuse: it goes on, since the file may
/// be replaced. Returns the reason. There is neither a broker nor a database behind this configuration.
#[track_caller]
fn refused_by_host(component: &[u8], limits: &str) -> String {
    let plugins = Plugins::new(&[]).add("offered.wasm", component);
    let mut host = Host::without_brokers("alone", &plugins, &format!("[limits]\n{limits}"));
    let refused = host.log().until_said("plugin refused");
    assert!(host.is_running(), "it goes on");
    refused.field("reason").to_owned()
}

/// Fault 28.
#[test]
fn a_compile_bomb_is_refused_when_its_time_is_up() {
    let bomb = bomb(6_000);
    let begun = Instant::now();
    assert_says(&refused_by_host(&bomb, "compile-time = \"2s\""), &["the compilation took longer than 2s"]);
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
}

/// Fault 28.
#[test]
fn a_compile_bomb_is_refused_when_its_memory_is_full() {
    const LIMIT: u64 = 50_000_000;
    let reason = refused_by_host(&bomb(6_000), &format!("compile-memory-bytes = {LIMIT}"));
    assert_says(&reason, &[&format!("more than {LIMIT} bytes of memory")]);

    // Which is enough for a plugin.
    let plugins = Plugins::new(&[SALES_BY_COUNTRY]);
    let sound = fs::File::open(plugins.directory().join("sales-by-country.wasm")).unwrap();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_projector"));
    let output = worker.args(["compile-worker", &LIMIT.to_string(), "60"]).stdin(sound).output().unwrap();
    assert!(
        output.status.success() && !output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Fault 28.
#[test]
fn a_component_beyond_its_size_is_not_even_compiled() {
    let sound = describing(&descriptor("sound")).component();
    let reason = refused_by_host(&sound, &format!("component-bytes = {}", sound.len() - 1));
    assert_says(&reason, &[&format!("has {} bytes, and {} are the most", sound.len(), sound.len() - 1)]);
}

/// Fault 28.
#[test]
fn a_descriptor_beyond_its_size_is_refused() {
    let descriptor = descriptor("sound");
    let (bytes, most) = (descriptor.len(), descriptor.len() - 1);
    let reason = refused_by_host(&describing(&descriptor).component(), &format!("descriptor-bytes = {most}"));
    assert_says(
        &reason,
        &["the plugin's `describe` failed", &format!("{bytes} bytes, and {most} are the most")],
    );
}

/// Fault 33.
#[test]
fn a_malicious_name_in_a_descriptor_is_refused_where_it_stands() {
    let bench = Bench::new();
    for (place, name, descriptor) in malicious() {
        let reason = bench.refusal(&Guest::describing(&descriptor.to_string()).component());
        assert!(
            says(&reason, &format!("the plugin's descriptor is not valid: {place}")),
            "{name:?} as the name of a {place}: {reason}"
        );
    }
    // Where the reason shows the name, it cannot forge a line of the report.
    let forged = json!("x\n  a line of its own\u{1b}[2J");
    let mut spoilt: Value = serde_json::from_str(&descriptor("sound")).unwrap();
    spoilt["name"] = forged;
    let output = bench.inspect(&Guest::describing(&spoilt.to_string()).component());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains('\u{1b}') && said.contains("\\n"), "{said:?}");
}

/// Limits of memory are for an instance, so a module has one.
#[test]
fn a_module_with_several_memories_is_refused() {
    let guest = describing(&descriptor("hungry")).declaring("(memory $second 1)");
    assert_says(&Bench::new().refusal(&guest.component()), &["multiple memories"]);
}

/// A database would be busy with these for minutes.
#[test]
fn a_descriptor_with_too_many_indexes_is_refused() {
    let mut declared: Value = serde_json::from_str(&descriptor("indexed")).unwrap();
    let table = declared["tables"][0].clone();
    let column = |at: usize| json!({"name": format!("c{at}"), "type": "int64", "nullable": true});
    let index = |at: usize| json!({"columns": [format!("c{at}")]});
    let tables = (0..99).map(|at| {
        let mut table = table.clone();
        table["name"] = format!("more{at}").into();
        table["columns"].as_array_mut().unwrap().extend((0..20).map(column));
        table["indexes"] = (0..20).map(index).collect();
        table
    });
    declared["tables"].as_array_mut().unwrap().extend(tables);
    let reason = Bench::new().refusal(&describing(&declared.to_string()).component());
    assert_says(&reason, &["tables: all tables together have 1981 indexes, and the limit is 500"]);
}

/// What `chrono` with its default features makes of a plugin: its author sees which crate it is, and what to
/// do, on the way to a component and where the module is looked at.
#[test]
fn an_import_of_javascript_is_refused_with_its_crate_and_the_remedy() {
    let module = |imports: &str| {
        let text = describing(&descriptor("sound")).text_format();
        wat::parse_str(text.replacen("(module", &format!("(module {imports}"), 1)).unwrap()
    };
    let bench = Bench::new();
    let wrapped = |module: &[u8]| {
        let file = bench.directory.path().join("module.wasm");
        fs::write(&file, module).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_projector"))
            .args(["component", "-o"])
            .arg(bench.directory.path().join("out.wasm"))
            .arg(&file)
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        (output.status.code(), one_line(&String::from_utf8_lossy(&output.stderr)))
    };
    for (imports, words) in [
        (
            r#"(import "__wbindgen_placeholder__" "__wbindgen_throw" (func (param i32 i32)))
               (import "__wbindgen_placeholder__" "__wbg_new0_f788a2397c7ca929" (func (result i32)))
               (import "__wbindgen_externref_xform__" "__wbindgen_externref_table_grow" (func (param i32) (result i32)))"#,
            [
                "`__wbindgen_placeholder__::__wbg_new0_f788a2397c7ca929` and 2 more functions",
                "`chrono`",
                "default-features = false",
            ],
        ),
        (
            r#"(import "__wbindgen_placeholder__" "__wbg_getRandomValues_3d90134a348e46b3" (func (param i32 i32)))"#,
            ["__wbg_getRandomValues", "`getrandom`", "uuid"],
        ),
        (
            r#"(import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))"#,
            ["wasi_snapshot_preview1::clock_time_get", "`std::time`", "an event carries its own time"],
        ),
    ] {
        let module = module(imports);
        let (code, reason) = wrapped(&module);
        assert_eq!(code, Some(1), "{reason}");
        assert_says(&reason, &words);
        assert_says(&bench.refusal(&module), &words);
    }
    let (code, reason) = wrapped(&module(""));
    assert_eq!(code, Some(1), "a hand-made module carries no contract: {reason}");
}
