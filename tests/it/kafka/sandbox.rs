//! A plugin can hurt nobody but the event that it was called with.

use projector_workload::Record;
use serde_json::json;
use toml::Value;

use crate::harness::{
    Argument, DeadLetter, Guest, Host, Line, Platform, Plugins, ReadModel, SALES_BY_COUNTRY, assert_closed,
    dead_letters, descriptor, eventually, rows, seed,
};

/// Well above what a host with two projections takes, and well below what any of these deeds takes
/// that is not stopped.
const MOST_MEMORY: u64 = 600 << 20;

/// A host with the hostile guest, and with a neighbour that must not notice. Its topics have one
/// partition, so that the events' order is known.
struct Sandbox {
    platform: Platform,
    /// What the host was given lives as long as it.
    _plugins: Plugins,
}

impl Sandbox {
    fn new(name: &str) -> Sandbox {
        Sandbox::with(name, Plugins::new(&[SALES_BY_COUNTRY, "hostile-guest"]))
    }

    fn with(name: &str, plugins: Plugins) -> Sandbox {
        let platform = Platform::new(name, &[SALES_BY_COUNTRY], ReadModel::postgres())
            .set(&["failures", "policy"], "dead-letter")
            .set(&["plugins", "directory"], plugins.path());
        platform.create_topics(1);
        let sandbox = Sandbox { platform, _plugins: plugins };
        sandbox.publish_sales(1);
        sandbox
    }

    fn set(self, path: &[&str], value: impl Into<Value>) -> Sandbox {
        Sandbox { platform: self.platform.set(path, value), ..self }
    }

    /// For the neighbour.
    fn publish_sales(&self, history: u64) {
        self.platform.publish(&self.platform.workload(seed(history), 200).records().collect::<Vec<_>>());
    }

    /// The deeds in this order, each with its place as its id; `id` is the same.
    fn publish(&self, deeds: &[&str]) {
        let topic = self.platform.topic("hostile.events.v1");
        let event = |(at, deed): (usize, &&str)| {
            let id = format!("{at:03}");
            Record::new(&*topic, &*id, json!({"do": deed, "id": id}).to_string())
        };
        self.platform.publish(&deeds.iter().enumerate().map(event).collect::<Vec<_>>());
    }

    /// Publishes them, and runs a host until it is through: each deed that has a verdict is a dead
    /// letter with it, all others wrote their row, the neighbour is right, and the host ends in
    /// order.
    #[track_caller]
    fn prove(&self, deeds: &[(&str, &str)]) -> (Host, Vec<DeadLetter>) {
        self.publish(&deeds.iter().map(|(deed, _)| *deed).collect::<Vec<_>>());
        let host = self.platform.start_host("host");
        self.until_as_told(deeds);
        self.platform.assert_sales_are_right();
        (host, dead_letters(self.platform.read_model(), "hostile"))
    }

    #[track_caller]
    fn until_as_told(&self, deeds: &[(&str, &str)]) {
        let status = self.platform.until_through("hostile");
        let letters = dead_letters(self.platform.read_model(), "hostile");
        let dead: Vec<(i64, String)> =
            letters.iter().map(|letter| (letter.offset, letter.verdict())).collect();
        let places = || (0_i64..).zip(deeds);
        let expected: Vec<(i64, String)> = places()
            .filter(|(_, (_, verdict))| !verdict.is_empty())
            .map(|(at, (_, verdict))| (at, (*verdict).to_owned()))
            .collect();
        assert_eq!(dead, expected, "{letters:#?}");
        assert_closed(&status, deeds.len(), 0, expected.len());
        let alive: Vec<String> = places()
            .filter(|(_, (_, verdict))| verdict.is_empty())
            .map(|(at, _)| format!("{at:03}"))
            .collect();
        assert_eq!(self.survivors().into_iter().map(|(id, _)| id).collect::<Vec<_>>(), alive);
    }

    /// Id and note.
    fn survivors(&self) -> Vec<(String, String)> {
        let rows = rows(self.platform.read_model(), "hostile", "survivor", &["id", "note"]);
        let text = |cell: &Option<String>| cell.clone().unwrap_or_default();
        rows.iter().map(|row| (text(&row[0]), text(&row[1]))).collect()
    }
}

/// Fault 24.
#[test]
fn a_trap_costs_its_event_and_no_other() {
    let sandbox = Sandbox::new("trap");
    let trap = "trap (trap)";
    let (host, letters) = sandbox.prove(&[
        ("write", ""),
        ("trap", trap),
        ("trap", trap),
        ("write", ""),
        ("panic", trap),
        ("write", ""),
    ]);
    for letter in &letters {
        assert!(letter.detail.contains("unreachable"), "{letter:?}");
    }
    let panic = &letters[2].detail;
    assert!(panic.starts_with("panicked at tests/guests/hostile/src/instance.rs:"), "{panic}");
    assert!(panic.contains("the hostile guest panics"), "{panic}");
    // What it said is in the log too: from the batch's instance, and from the second run alone.
    let log = host.sigterm();
    let lines = log.lines();
    let said: Vec<_> =
        lines.iter().filter(|line| line.message().contains("the hostile guest panics")).collect();
    assert_eq!(said.len(), 2, "{said:#?}");
    for line in said {
        assert_eq!((line.field("level"), line.field("projection")), ("ERROR", "hostile"), "{}", line.text);
        assert!(line.field("position").ends_with("/0@4"), "{}", line.text);
    }
}

/// Fault 25: what has no end runs out of fuel, whatever the clock says.
#[test]
fn an_endless_loop_runs_out_of_fuel() {
    let sandbox = Sandbox::new("fuel").set(&["limits", "time"], "10m");
    let (host, letters) = sandbox.prove(&[("write", ""), ("loop", "limit (fuel)"), ("write", "")]);
    assert!(letters[0].detail.contains("more fuel than `limits.fuel` allows"), "{letters:?}");
    host.sigterm();
}

/// Fault 25: where the fuel would last for hours, the clock ends it. That may be the machine's
/// fault, so the event is not dead: the projection stands still and says so, and its neighbour
/// flows.
#[test]
fn an_event_that_takes_too_long_halts_its_projection_and_no_other() {
    let sandbox = Sandbox::new("clock")
        .set(&["projections", "hostile", "limits", "fuel"], 1_i64 << 60)
        .set(&["projections", "hostile", "limits", "time"], "400ms");
    let deeds = [("write", ""), ("loop", "limit (fuel)"), ("write", "")];
    sandbox.publish(&deeds.map(|(deed, _)| deed));
    let host = sandbox.platform.start_host("hasty");
    let halted = eventually("the projection stands still", || {
        let status = sandbox.platform.status()?.remove("hostile").ok_or("it is not installed")?;
        if status.halted.is_some() { Ok(status) } else { Err(format!("{status:?}")) }
    });
    let trouble = halted.halted.as_ref().unwrap();
    assert!(trouble.says(&["/0@1 exceeded its time limit 3 times", "limits.time"]), "{trouble:?}");
    assert_closed(&halted, 1, 0, 0);
    assert_eq!(halted.lag, 2);
    assert_eq!(sandbox.survivors().len(), 1);
    sandbox.publish_sales(2);
    sandbox.platform.assert_sales_are_right();
    let log = host.sigterm();
    let lines = log.lines();
    let retried = lines
        .iter()
        .filter(|line| line.message().contains("exceeded its time limit; its batch is tried again"));
    // Twice, or four times if the first batch had events before it: these are committed alone.
    let retried = retried.count();
    assert!(retried == 2 || retried == 4, "{retried}");
    assert!(lines.iter().any(
        |line| line.message().contains("projection is blocked") && line.field("projection") == "hostile"
    ));

    // With the fuel of every plugin, and more time, the event is found to be the plugin's fault;
    // nothing was lost.
    let sandbox = sandbox
        .set(&["projections", "hostile", "limits", "fuel"], 100_000_000)
        .set(&["projections", "hostile", "limits", "time"], "10m");
    let host = sandbox.platform.start_host("patient");
    host.group("hostile");
    sandbox.until_as_told(&deeds);
    host.sigterm();
}

/// Fault 26.
#[test]
fn bombs_are_stopped_by_their_limits_and_the_host_stays_small() {
    // So much fuel that it is the other limits that stop them.
    let sandbox = Sandbox::new("bombs")
        .set(&["projections", "hostile", "limits", "fuel"], 100_000_000_000_i64)
        .set(&["projections", "hostile", "limits", "time"], "1m");
    let (host, letters) = sandbox.prove(&[
        ("write", ""),
        ("memory-bomb", "limit (memory)"),
        ("write", ""),
        // Rust's own stack is in the guest's memory, and ends there.
        ("recurse", "limit (stack)"),
        ("output-bomb", "limit (output)"),
        ("write", ""),
        ("many-changes", "limit (output)"),
        ("many-needs", "limit (output)"),
        ("log-flood", ""),
        ("write", ""),
    ]);
    for letter in &letters {
        assert!(letter.detail.len() < 5_000, "{letter:?}");
    }
    assert!(letters[1].detail.contains("stack in linear memory overflowed"), "{:?}", letters[1]);
    let peak = host.peak_memory();
    assert!(peak < MOST_MEMORY, "the host held {} MiB", peak >> 20);
    println!("the host held {} MiB at most", peak >> 20);
    // Of a million lines a few, and how many there were.
    let lines = host.sigterm().lines();
    let flood = lines.iter().filter(|line| line.message().ends_with("of a flood")).count();
    assert!(flood > 0, "nothing of the flood was logged");
    assert_logged(&lines, 1_000_000, flood, 100);
}

/// So many lines were seen of those that the hostile guest logged, `most` in each second, and the
/// host told of all others how many they were.
#[track_caller]
fn assert_logged(lines: &[Line], logged: u64, seen: usize, most: usize) {
    let mut dropped = Vec::new();
    for line in lines
        .iter()
        .filter(|line| line.message().contains("more lines in one second than `limits.log-lines` allows"))
    {
        assert_eq!(line.field("projection"), "hostile", "{}", line.text);
        dropped.extend(line.number("dropped"));
    }
    assert_eq!(seen as u64 + dropped.iter().sum::<u64>(), logged, "{seen} seen, and dropped: {dropped:?}");
    // None are dropped in a second that is not full.
    assert!(!dropped.is_empty() && seen >= dropped.len() * most, "{seen} seen, and dropped: {dropped:?}");
}

/// Batch after batch, each with an instance of its own: what counts is the second.
#[test]
fn lines_are_limited_by_the_second_and_each_says_whose_it_is() {
    const LINES: usize = 200;
    let sandbox = Sandbox::new("lines")
        .set(&["projections", "hostile", "batch", "events"], 1)
        .set(&["projections", "hostile", "limits", "log-lines"], 5);
    let (host, _) = sandbox.prove(&[("say", ""); LINES]);
    let log = host.sigterm();
    assert_eq!(log.tally("hostile").batches, LINES as u64);
    let lines = log.lines();
    let said: Vec<_> = lines.iter().filter(|line| line.message().starts_with("one line")).collect();
    for line in &said {
        assert_eq!(line.message(), "one line\\nand what looks like another");
        assert_eq!((line.field("projection"), line.field("version")), ("hostile", "1.0.0"));
        assert!(line.field("position").contains("hostile.events.v1/0@"), "{}", line.text);
    }
    assert_logged(&lines, LINES as u64, said.len(), 5);
}

/// What [`raw_guest`] does harm with.
const RAW_DEEDS: &str = "(table $elements 1 funcref) (func $deep (call $deep))";

/// A guest that counts its events, but for those whose payload is `T`, `R` or `H`: it grows a table
/// until it may no more, calls itself without end, or never stops to call the host.
fn raw_guest() -> Vec<u8> {
    let mut guest = Guest::describing(&descriptor("raw"));
    let answer = guest.changes(&[(0, &[Argument::Int64(1), Argument::Int64(1)])]);
    let [at, length] = guest.text(&[b'x'; 200_000]);
    let on = |payload: char, code: &str| {
        let payload = u32::from(payload);
        format!(
            "(if (i32.eq (i32.load8_u (local.get $value)) (i32.const {payload})) (then {code} (unreachable)))"
        )
    };
    let grow = "(loop $more (br_if $more
        (i32.ne (table.grow $elements (ref.null func) (i32.const 1000)) (i32.const -1))))";
    let log =
        format!("(loop $more (call $log (i32.const 0) (i32.const {at}) (i32.const {length})) (br $more))");
    let code = [on('T', grow), on('R', "(call $deep)"), on('H', &log), format!("(i32.const {answer})")];
    guest.declaring(RAW_DEEDS).project(&code.concat()).component()
}

/// Publishes these payloads for the raw guest.
fn publish_raw(sandbox: &Sandbox, payloads: &[&'static str]) {
    let topic = sandbox.platform.topic("hostile.events.v1");
    let records = payloads.iter().map(|payload| Record::new(&*topic, "k", *payload));
    sandbox.platform.publish(&records.collect::<Vec<_>>());
}

/// Fault 26, by what no compiler writes.
#[test]
fn tables_and_the_stack_are_bounded_too() {
    let sandbox = Sandbox::with("raw", Plugins::new(&[SALES_BY_COUNTRY]).add("raw.wasm", raw_guest()));
    publish_raw(&sandbox, &["A", "T", "A", "R", "A"]);
    let host = sandbox.platform.start_host("host");
    let status = sandbox.platform.until_through("raw");
    assert_closed(&status, 5, 0, 2);
    let letters = dead_letters(sandbox.platform.read_model(), "raw");
    let verdicts: Vec<_> = letters.iter().map(|letter| (letter.offset, letter.verdict())).collect();
    assert_eq!(verdicts, [(1, "limit (table)".to_owned()), (3, "limit (stack)".to_owned())], "{letters:?}");
    sandbox.platform.assert_sales_are_right();
    assert!(host.peak_memory() < MOST_MEMORY);
    host.sigterm();
}

/// Fault 25: the time that the host itself spends for a guest is the guest's, although it costs it
/// no fuel.
#[test]
fn a_guest_that_keeps_the_host_busy_runs_out_of_time() {
    let sandbox = Sandbox::with("busy", Plugins::new(&[SALES_BY_COUNTRY]).add("raw.wasm", raw_guest()))
        .set(&["projections", "raw", "limits", "time"], "400ms");
    publish_raw(&sandbox, &["H"]);
    let host = sandbox.platform.start_host("host");
    let reason = eventually("the projection stands still", || {
        sandbox.platform.status()?.remove("raw").and_then(|status| status.halted).ok_or("it runs".to_owned())
    });
    assert!(reason.says(&["/0@0 exceeded its time limit 3 times"]), "{reason:?}");
    sandbox.platform.assert_sales_are_right();
    host.sigterm();
}

/// Fault 27, and what is not declared.
#[test]
fn an_answer_that_was_not_declared_is_refused_with_a_code() {
    let sandbox = Sandbox::new("undeclared");
    let (change, value) = ("invalid (invalid-change)", "invalid (invalid-value)");
    let deeds = [
        ("write", "", ""),
        ("wrong-statement", change, "999"),
        ("too-few-arguments", change, "1 arguments given, 2 declared"),
        ("too-many-arguments", change, "3 arguments given, 2 declared"),
        ("wrong-type", value, "survivor.note: int64 given, text expected"),
        ("null-key", "invalid (null-key)", "survivor.id"),
        ("foreign-statement", change, "writes with the statement gone"),
        ("undeclared-code", change, "because"),
        ("wrong-lookup", change, "999"),
        ("needs-forever", "limit (rounds)", "after 3 rounds"),
        ("write", "", ""),
    ];
    let (host, letters) = sandbox.prove(&deeds.map(|(deed, verdict, _)| (deed, verdict)));
    for (letter, (deed, _, words)) in letters.iter().zip(deeds.iter().filter(|deed| !deed.1.is_empty())) {
        assert!(letter.detail.contains(words), "{deed}: {letter:?}");
    }
    host.sigterm();
}

/// Fault 27, by count: within the bytes that an event may answer with, and beyond the changes that
/// it may lead to.
#[test]
fn more_changes_than_an_event_may_lead_to_are_none() {
    let mut guest = Guest::describing(&descriptor("many"));
    let change: (u16, &[Argument<'_>]) = (0, &[Argument::Int64(7), Argument::Int64(1)]);
    let answers = [20, 21].map(|changes| guest.changes(&vec![change; changes]));
    let plugins = Plugins::new(&[SALES_BY_COUNTRY]).add("many.wasm", guest.answering(&answers).component());
    let sandbox = Sandbox::with("many", plugins).set(&["limits", "changes"], 20);
    let topic = sandbox.platform.topic("hostile.events.v1");
    sandbox.platform.publish(&["A", "B", "A"].map(|payload| Record::new(&*topic, "k", payload)));
    let host = sandbox.platform.start_host("host");
    let status = sandbox.platform.until_through("many");
    assert_closed(&status, 3, 0, 1);
    let letters = dead_letters(sandbox.platform.read_model(), "many");
    assert_eq!((letters[0].offset, letters[0].verdict().as_str()), (1, "limit (changes)"));
    assert!(letters[0].detail.contains("21 changes, and 20 are the most"), "{letters:?}");
    let seen = rows(sandbox.platform.read_model(), "many", "seen", &["kind", "events"]);
    assert_eq!(seen, [[Some("7".to_owned()), Some("40".to_owned())]]);
    sandbox.platform.assert_sales_are_right();
    host.sigterm();
}

/// Fault 27, by count: the same of the lookups that an event may ask for at once.
#[test]
fn more_lookups_than_an_event_may_ask_for_are_none() {
    let mut guest = Guest::describing(&descriptor("curious"));
    let call: (u16, &[Argument<'_>]) = (0, &[Argument::Int64(7)]);
    let answers = [20, 21].map(|calls| guest.needs(&vec![call; calls]));
    let done = guest.changes(&[(0, &[Argument::Int64(7), Argument::Int64(1)])]);
    let guest = guest.answering(&answers).once_found(done);
    let plugins = Plugins::new(&[SALES_BY_COUNTRY]).add("curious.wasm", guest.component());
    let sandbox = Sandbox::with("curious", plugins).set(&["limits", "lookups"], 20);
    publish_raw(&sandbox, &["A", "B", "A"]);
    let host = sandbox.platform.start_host("host");
    let status = sandbox.platform.until_through("curious");
    assert_closed(&status, 3, 0, 1);
    let letters = dead_letters(sandbox.platform.read_model(), "curious");
    assert_eq!((letters[0].offset, letters[0].verdict().as_str()), (1, "limit (lookups)"));
    assert!(letters[0].detail.contains("21 lookups, and 20 are the most"), "{letters:?}");
    sandbox.platform.assert_sales_are_right();
    host.sigterm();
}

/// Fault 25: events that stay within their limits, and take long together. They are committed as they
/// get done, so that nobody waits for all of them.
#[test]
fn events_that_use_much_each_are_committed_in_several_batches() {
    const EVENTS: usize = 40;
    // Some half a million units of fuel.
    const BURN: &str = "(func $burn (local $left i32) (local.set $left (i32.const 100000))
        (loop $more (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))";
    let mut guest = Guest::describing(&descriptor("slow"));
    let answer = guest.changes(&[(0, &[Argument::Int64(1), Argument::Int64(1)])]);
    let component = guest.declaring(BURN).project(&format!("(call $burn) (i32.const {answer})")).component();
    // Every event has time for itself alone, or fuel for some with it.
    for (limit, value, least) in
        [("batch-time", Value::from("0s"), EVENTS), ("batch-fuel", Value::from(2_000_000), EVENTS / 5)]
    {
        let sandbox = Sandbox::with(limit, Plugins::new(&[SALES_BY_COUNTRY]).add("slow.wasm", &component))
            .set(&["projections", "slow", "limits", "fuel"], 1_000_000)
            .set(&["projections", "slow", "limits", limit], value);
        publish_raw(&sandbox, &["event"; EVENTS]);
        let host = sandbox.platform.start_host("host");
        assert_closed(&sandbox.platform.until_through("slow"), EVENTS, 0, 0);
        let seen = rows(sandbox.platform.read_model(), "slow", "seen", &["events"]);
        assert_eq!(seen, [[Some(EVENTS.to_string())]]);
        sandbox.platform.assert_sales_are_right();
        let tally = host.sigterm().tally("slow");
        assert!((least..=EVENTS).contains(&(tally.batches as usize)), "{limit}: {tally:?}");
    }
}

/// Events of one byte that lead to 7 MB each: as many as a batch takes would be gigabytes.
#[test]
fn large_answers_end_a_batch_and_the_host_stays_small() {
    const EVENTS: usize = 120;
    const NOTE_BYTES: usize = 7 << 20;
    const MEMORY: usize = 1 << 20;
    let descriptor = json!({
        "name": "wordy", "version": "1.0.0",
        "topics": [{"name": "hostile.events.v1", "statements": ["put"]}],
        "tables": [{"name": "note", "key": ["id"], "columns": [
            {"name": "id", "type": "int64"}, {"name": "note", "type": "text"}]}],
        "statements": [{"name": "put", "table": "note", "kind": "upsert", "set": [{"column": "note"}]}],
    });
    let mut guest = Guest::describing(&descriptor.to_string());
    let arguments = guest.arguments(&[Argument::Int64(1), Argument::TextAt(MEMORY, NOTE_BYTES)]);
    let answer = guest.calls(&[(0, arguments, 2)]);
    let code = format!(
        "(if (i32.eq (memory.size) (i32.const 16)) (then
           (drop (memory.grow (i32.const 128)))
           (memory.fill (i32.const {MEMORY}) (i32.const 120) (i32.const {NOTE_BYTES}))))
         (i32.const {answer})"
    );
    let component = guest.project(&code).component();
    let sandbox = Sandbox::with("wordy", Plugins::new(&[SALES_BY_COUNTRY]).add("wordy.wasm", component));
    publish_raw(&sandbox, &["e"; EVENTS]);
    let host = sandbox.platform.start_host("host");
    assert_closed(&sandbox.platform.until_through("wordy"), EVENTS, 0, 0);
    sandbox.platform.assert_sales_are_right();
    let peak = host.peak_memory();
    let tally = host.sigterm().tally("wordy");
    println!("the host held {} MiB at most; {tally:?}", peak >> 20);
    assert!(peak < MOST_MEMORY, "the host held {} MiB", peak >> 20);
    // One is below what a batch may answer with, two are beyond it.
    assert!(tally.batches as usize >= EVENTS / 2, "{tally:?}");
}

/// An answer that is none: pointers into nowhere, cases that do not exist, text that is not UTF-8.
#[test]
fn an_answer_that_cannot_be_read_costs_its_event_and_no_other() {
    let mut guest = Guest::describing(&descriptor("babbler"));
    let sound = guest.changes(&[(0, &[Argument::Int64(1), Argument::Int64(1)])]);
    let wild = [
        [0, 0, 0xffff_ff00, 1_000_000, 0, 0],
        [0, 0, 16, u32::MAX, 0, 0],
        // Misaligned.
        [0, 0, 17, 1, 0, 0],
        // The third outcome is the last.
        [0, 3, 0, 0, 0, 0],
        [2, 0, 0, 0, 0, 0],
    ]
    .map(|words| guest.put(&words.map(u32::to_le_bytes).concat()));
    let bad_text = guest.changes(&[(0, &[Argument::Text(b"\xff\xfe"), Argument::Int64(1)])]);
    let [at, length] = guest.text(b"\xc0\x80").map(|word| word as u32);
    let bad_code = guest.put(&[1, at, length, at, length, 0].map(u32::to_le_bytes).concat());
    let mut answers = vec![sound];
    answers.extend(wild);
    answers.extend([bad_text, bad_code, 0xffff_fff0]);
    // And the payload beyond them all answers from beyond the table.
    let payloads: Vec<u8> = (b'A'..b'A' + answers.len() as u8).flat_map(|payload| [payload, b'A']).collect();
    let plugins =
        Plugins::new(&[SALES_BY_COUNTRY]).add("babbler.wasm", guest.answering(&answers).component());
    let sandbox = Sandbox::with("babbler", plugins);
    let topic = sandbox.platform.topic("hostile.events.v1");
    let events: Vec<Record> =
        payloads.iter().map(|payload| Record::new(&*topic, "k", vec![*payload])).collect();
    sandbox.platform.publish(&events);
    let host = sandbox.platform.start_host("host");
    let status = sandbox.platform.until_through("babbler");
    let letters = dead_letters(sandbox.platform.read_model(), "babbler");
    assert_closed(&status, payloads.len(), 0, answers.len() - 1);
    for letter in &letters {
        assert!(matches!(&*letter.verdict(), "trap (trap)" | "limit (output)"), "{letter:?}");
        assert_ne!(letter.payload.as_deref(), Some(&b"A"[..]));
    }
    let seen = rows(sandbox.platform.read_model(), "babbler", "seen", &["kind", "events"]);
    assert_eq!(seen, [[Some("1".to_owned()), Some((answers.len() + 1).to_string())]]);
    sandbox.platform.assert_sales_are_right();
    assert!(host.peak_memory() < MOST_MEMORY);
    host.sigterm();
}

/// Every batch has an instance of its own, and none that broke off is called again.
#[test]
fn what_an_instance_remembers_ends_with_its_batch() {
    let first = "event 0 of this instance";
    let sandbox = Sandbox::new("remember").set(&["projections", "hostile", "batch", "events"], 1);
    let (host, _) = sandbox.prove(&[("remember", ""); 4]);
    for (id, note) in sandbox.survivors() {
        assert_eq!(note, first, "{id}");
    }
    host.sigterm();

    let sandbox = Sandbox::new("remember-trap");
    let (host, _) =
        sandbox.prove(&[("remember", ""), ("remember", ""), ("trap", "trap (trap)"), ("remember", "")]);
    let notes: Vec<String> = sandbox.survivors().into_iter().map(|(_, note)| note).collect();
    // In one batch they share an instance, which shows that there is something to forget.
    assert_eq!(notes, [first, "event 1 of this instance", first]);
    host.sigterm();
}

/// That an instance may remember something is found out by calling others with the same.
#[test]
fn an_impure_plugin_is_reported_and_a_pure_neighbour_is_not() {
    let sandbox = Sandbox::new("impure");
    let (host, _) = sandbox.prove(&[("write", ""), ("remember", ""), ("remember", ""), ("write", "")]);
    let log = host.sigterm();
    let lines = log.lines();
    let reports: Vec<_> =
        lines.iter().filter(|line| line.message().contains("not a pure function")).collect();
    let [report] = reports[..] else { panic!("{reports:#?}") };
    assert_eq!((report.field("level"), report.field("projection")), ("ERROR", "hostile"));
    assert_eq!(report.field("version"), "1.0.0");
    assert!(report.field("position").ends_with(".hostile.events.v1/0@2"), "{}", report.text);
    let note = |count: u64| format!("1 changes: survivor(\"002\", \"event {count} of this instance\")");
    assert_eq!(report.field("outcome"), note(1));
    assert_eq!(report.field("outcome_again"), note(0));
    assert_eq!((log.tally("hostile").impure, log.tally(SALES_BY_COUNTRY).impure), (1, 0));
}

/// A failure that a fresh instance does not repeat was not the event's: here each call fails but an
/// instance's first.
#[test]
fn a_failure_is_confirmed_alone_in_a_fresh_instance() {
    const EVENTS: usize = 30;
    let mut guest = Guest::describing(&descriptor("forgetful"));
    let answer = guest.changes(&[(0, &[Argument::Int64(1), Argument::Int64(1)])]);
    let [at, length] = guest.text(b"called again");
    let guest = guest.project(&format!(
        "(if (i32.gt_u (global.get $calls) (i32.const 1))
           (then (call $log (i32.const 2) (i32.const {at}) (i32.const {length})) (unreachable)))
         (i32.const {answer})"
    ));
    let plugins = Plugins::new(&[SALES_BY_COUNTRY]).add("forgetful.wasm", guest.component());
    let sandbox = Sandbox::with("forgetful", plugins);
    let topic = sandbox.platform.topic("hostile.events.v1");
    sandbox.platform.publish(&(0..EVENTS).map(|_| Record::new(&*topic, "k", "event")).collect::<Vec<_>>());
    let host = sandbox.platform.start_host("host");
    let status = sandbox.platform.until_through("forgetful");
    assert_closed(&status, EVENTS, 0, 0);
    let seen = rows(sandbox.platform.read_model(), "forgetful", "seen", &["events"]);
    assert_eq!(seen, [[Some(EVENTS.to_string())]]);
    let log = host.sigterm();
    let failed = log.lines().iter().filter(|line| line.message() == "called again").count();
    assert!(failed > 0, "no instance was called twice, so nothing was confirmed");
}
