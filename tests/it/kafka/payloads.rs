//! Whatever producers send: it is applied, ignored with a reason, or kept as a dead letter, byte by
//! byte; and no other event is the worse for it.

use projector_workload::{CUSTOMER_COUNTRY_CHANGED, ORDER_CONFIRMED, Position, Publisher, Record};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::{
    Argument, DeadLetter, Guest, ORDER_SEARCH, Platform, Plugins, ReadModel, SALES_BY_COUNTRY, assert_closed,
    assert_same, dead_letters, fold, rows, seed,
};

/// What becomes of a record that is no sound order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// By `order-search`: with the code, and these words in the detail.
    Dead(&'static str, &'static str),
    /// The same, for a field that `sales-by-country` does not read: it counts the order.
    DeadForSearch(&'static str, &'static str),
    Ignored,
}

const BAD: &str = "bad-payload";

/// Payloads of the orders' topic that are none.
fn spoilt_orders() -> Vec<(Option<Vec<u8>>, Fate)> {
    let sound = json!({
        "eventId": "e", "schemaVersion": 2, "occurredAt": "2025-10-01T12:00:00Z",
        "order": {"id": "never", "customerId": "c", "customerEmail": "e", "customerName": "n", "customerCountry": "ZZ",
            "currency": "EUR",
            "totalCents": 1, "items": [{"sku": "s", "qty": 1, "priceCents": 1}]},
    });
    let with = |pointer: &str, value: Value| {
        let mut order = sound.clone();
        *order.pointer_mut(pointer).unwrap() = value;
        order.to_string().into_bytes()
    };
    let without = |object: &str, field: &str| {
        let mut order = sound.clone();
        order.pointer_mut(object).unwrap().as_object_mut().unwrap().remove(field).unwrap();
        order.to_string().into_bytes()
    };
    let dead = |payload: Vec<u8>, words| (Some(payload), Fate::Dead(BAD, words));
    let unread = |payload: Vec<u8>, words| (Some(payload), Fate::DeadForSearch(BAD, words));
    let text = sound.to_string();
    let invalid_utf8 = with("/order/customerName", json!("NAME"));
    let at = invalid_utf8.windows(4).position(|window| window == b"NAME").unwrap();
    let invalid_utf8 = [&invalid_utf8[..at], b"\xff\xfe\xc0", &invalid_utf8[at + 4..]].concat();
    vec![
        // Fault 13: no UTF-8, no JSON.
        unread(invalid_utf8, "not UTF-8, as JSON must be: byte 0xff at offset"),
        dead(vec![0xff], "byte 0xff at offset 0"),
        dead(vec![0], "not JSON"),
        dead(vec![], "the value is empty (0 bytes"),
        dead(text.as_bytes()[..text.len() - 1].to_vec(), "EOF"),
        dead([text.as_bytes(), b"}"].concat(), "trailing characters"),
        dead(b"{'single': 'quotes'}".to_vec(), ""),
        dead(vec![b'['; 20_000], "invalid type: sequence, expected u32"),
        dead((0..=255).collect(), "schema registry"),
        dead(b"\x1f\x8b\x08\0\0\0\0\0\0\xff compressed by hand".to_vec(), "compressed with gzip"),
        dead([b"\0\0\0\x01\xc8", text.as_bytes()].concat(), "schema id 456), not JSON"),
        dead(b"Obj\x01\x04\x14avro.codec\x08null".to_vec(), "an Avro object container"),
        dead(text.encode_utf16().flat_map(u16::to_le_bytes).collect(), "UTF-16 without a byte order mark"),
        dead(
            [b"\xff\xfe".to_vec(), text.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat(),
            "UTF-16",
        ),
        // JSON of another shape.
        dead(b"null".to_vec(), ""),
        dead(b"[]".to_vec(), ""),
        dead(b"\"an order\"".to_vec(), ""),
        dead(b"{}".to_vec(), "schemaVersion"),
        dead(without("", "order"), "order"),
        unread(without("/order", "customerId"), "customerId"),
        dead(with("/order/totalCents", json!("1")), "order.totalCents"),
        dead(with("/order/totalCents", json!(0.5)), "order.totalCents"),
        dead(with("/order/totalCents", json!(u64::MAX)), "order.totalCents"),
        unread(with("/order/items/0/qty", json!("one")), "order.items[0].qty"),
        dead(with("/occurredAt", json!("yesterday")), "occurredAt"),
        dead(with("/schemaVersion", json!("2")), "schemaVersion"),
        dead(with("/schemaVersion", json!(-1)), "schemaVersion"),
        (None, Fate::Dead(BAD, "tombstone")),
        // Fault 14. An order of another schema need not look like one.
        (Some(with("/schemaVersion", json!(1))), Fate::Ignored),
        (Some(b"{\"schemaVersion\": 0}".to_vec()), Fate::Ignored),
        (Some(b"{\"schemaVersion\": 1, \"order\": 7}".to_vec()), Fate::Ignored),
        (Some(with("/schemaVersion", json!(3))), Fate::Dead("unknown-schema", "schemaVersion 3")),
        (Some(b"{\"schemaVersion\": 4294967295}".to_vec()), Fate::Dead("unknown-schema", "4294967295")),
    ]
}

/// Faults 12, 13 and 14, all among sound events, whose rows are those of a log that has nothing
/// else.
#[test]
fn spoilt_payloads_are_dead_letters_as_they_came_and_the_rest_is_applied() {
    let mut rng = StdRng::seed_from_u64(seed(13));
    let platform = Platform::new("payloads", &[ORDER_SEARCH, SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["batch", "events"], 40);
    platform.create_topics(3);
    let clean = Platform::new("payloads-clean", &[], ReadModel::sqlite());
    clean.create_topics(3);

    // The same history on both. Of the one with spoilt events every other sound one has lost its
    // key, or its headers' values.
    let history = seed(1_312);
    let sound: Vec<Record> = clean.workload(history, 600).records().collect();
    let places = Publisher::new(clean.brokers()).publish(&sound).unwrap();
    let mut records: Vec<(Record, Option<Fate>)> =
        platform.workload(history, 600).records().map(|record| (record, None)).collect();
    let orders = platform.topic(ORDER_CONFIRMED);
    let (mut keyless, mut valueless) = (0, 0);
    for ((record, _), place) in records.iter_mut().zip(&places) {
        // Where the key would have brought it, so that the order stays the same.
        record.partition = Some(place.partition);
        if record.topic == orders && rng.random_bool(0.5) {
            record.key = None;
            keyless += 1;
        }
        if rng.random_bool(0.5) {
            record.headers.iter_mut().for_each(|(_, value)| *value = None);
            record.headers.push(("x-empty".into(), Some(Vec::new())));
            valueless += 1;
        }
    }
    assert!(keyless > 100 && valueless > 200, "{keyless} without key, {valueless} without headers' values");
    for (at, (payload, fate)) in spoilt_orders().into_iter().enumerate() {
        let mut record = Record::new(&*orders, format!("key-{at}"), payload.clone().unwrap_or_default());
        record.payload = payload;
        if at % 2 == 0 {
            record.key = None;
        }
        record.headers = vec![("x-event-id".into(), None), ("x-bytes".into(), Some(vec![0xff, 0]))];
        let place = rng.random_range(0..=records.len());
        records.insert(place, (record, Some(fate)));
    }
    // Another handler, whose payload the SDK reads by itself.
    let country = Record::new(platform.topic(CUSTOMER_COUNTRY_CHANGED), "c", "{\"customerId\": 5}");
    records.push((country, Some(Fate::Dead(BAD, "customerId"))));

    let sent: Vec<Record> = records.iter().map(|(record, _)| record.clone()).collect();
    let positions = Publisher::new(platform.brokers()).publish(&sent).unwrap();
    let host = platform.start_host("host");
    let status = platform.until_fresh();

    let mut expected = fold(&clean);
    let counted = records.iter().filter(|(_, fate)| matches!(fate, Some(Fate::DeadForSearch(..)))).count();
    let sale = [("country", "ZZ"), ("day", "2025-10-01"), ("currency", "EUR")]
        .map(|(name, text)| (name, json!(text)));
    let sums = ["orders", "total_cents"].map(|name| (name, json!(counted.to_string())));
    expected.sales.insert("ZZ 2025-10-01 EUR".into(), sale.into_iter().chain(sums).collect());
    let read_model = platform.read_model();
    assert_same("order_search", &expected.orders, &read_model.orders());
    assert_same("customer", &expected.customers, &read_model.customers());
    assert_same("sales_by_country", &expected.sales, &read_model.sales());
    for (projection, sound) in
        [(ORDER_SEARCH, &expected.order_search_books), (SALES_BY_COUNTRY, &expected.sales_books)]
    {
        let mine = |record: &Record| projection == ORDER_SEARCH || record.topic == orders;
        let events = records.iter().zip(&positions).filter(|((record, _), _)| mine(record));
        let read = events.clone().count();
        let dead: Vec<_> = events
            .filter_map(|((record, fate), position)| match fate {
                Some(Fate::Dead(code, words)) => Some((record, position, *code, *words)),
                Some(Fate::DeadForSearch(code, words)) if projection == ORDER_SEARCH => {
                    Some((record, position, *code, *words))
                }
                _ => None,
            })
            .collect();
        let old = records.iter().filter(|(_, fate)| *fate == Some(Fate::Ignored)).count();
        let ignored = old + sound.ignored["old-schema"] as usize;
        assert_closed(&status[projection], read, ignored, dead.len());
        assert_eq!(status[projection].ignored_by_code["old-schema"], ignored as u64, "{projection}");
        assert_kept(projection, dead, dead_letters(read_model, projection));
    }
    host.sigterm();
}

/// Each of the dead is kept, with all that it came with.
#[track_caller]
fn assert_kept(projection: &str, dead: Vec<(&Record, &Position, &str, &str)>, mut letters: Vec<DeadLetter>) {
    for (record, position, code, words) in dead {
        let found = letters.iter().position(|letter| {
            (&letter.topic, letter.partition, letter.offset)
                == (&record.topic, position.partition, position.offset)
        });
        let letter =
            letters.remove(found.unwrap_or_else(|| panic!("{projection}: {record:?} is no dead letter")));
        assert_eq!(letter.payload, record.payload, "{projection}");
        assert_eq!(letter.key, record.key, "{projection}");
        let headers = match record.headers.is_empty() {
            true => json!([]),
            false => {
                json!([{"name": "x-event-id", "value": null}, {"name": "x-bytes", "value": {"hex": "ff00"}}])
            }
        };
        assert_eq!(letter.headers, headers, "{projection}");
        assert_eq!(letter.verdict(), format!("rejected ({code})"), "{projection}: {letter:?}");
        // `sales-by-country` reads less of an order, and so finds other faults first.
        assert!(projection != ORDER_SEARCH || letter.detail.contains(words), "{words:?}: {letter:?}");
        assert!(!letter.detail.is_empty());
    }
    assert!(letters.is_empty(), "{projection}: these should have been applied: {letters:#?}");
}

/// A plugin that writes down what it was given: whether there was a key, a value, and a value of
/// the first header, and how long each was.
fn witness() -> Vec<u8> {
    let columns = [
        "place",
        "has_key",
        "key_bytes",
        "has_value",
        "value_bytes",
        "headers",
        "has_header",
        "header_bytes",
    ];
    let descriptor = json!({
        "name": "witness", "version": "1",
        "topics": [{"name": "hostile.events.v1", "statements": ["put"]}],
        "tables": [{"name": "given", "key": ["place"],
            "columns": columns.map(|name| json!({"name": name, "type": "int64"}))}],
        "statements": [{"name": "put", "table": "given", "kind": "upsert",
            "set": columns[1..].iter().map(|name| json!({"column": name})).collect::<Vec<_>>()}],
    });
    let mut guest = Guest::describing(&descriptor.to_string());
    let arguments = guest.arguments(&[Argument::Int64(-1); 8]);
    let answer = guest.calls(&[(0, arguments, 8)]);
    let store = |at: usize, value: &str| {
        format!("(i64.store (i32.const {}) (i64.extend_i32_u {value}))", arguments + 24 * at + 8)
    };
    let local = |at: usize, name: &str| store(at, &format!("(local.get ${name})"));
    // A header: its name, then whether it has a value at 8, and that value's length at 16.
    let in_header =
        |load: &str, offset| format!("({load} (i32.add (local.get $headers) (i32.const {offset})))");
    let has_value = in_header("i32.load8_u", 8);
    // Where there is no value, its length may be anything.
    let length = format!("(select {} (i32.const 0) {has_value})", in_header("i32.load", 16));
    guest
        .project(&format!(
            "(i64.store (i32.const {}) (local.get $offset)) {} {} {} {} {}
             (if (local.get $headers_len) (then {} {})) (i32.const {answer})",
            arguments + 8,
            local(1, "key?"),
            local(2, "key_len"),
            local(3, "value?"),
            local(4, "value_len"),
            local(5, "headers_len"),
            store(6, &has_value),
            store(7, &length),
        ))
        .component()
}

/// Fault 12: absent is something else than empty.
#[test]
fn a_null_key_and_a_null_header_reach_the_plugin_as_absent() {
    let plugins = Plugins::new(&[]).add("witness.wasm", witness());
    let platform =
        Platform::new("absent", &[], ReadModel::postgres()).set(&["plugins", "directory"], plugins.path());
    platform.create_topics(1);
    let record = |key: Option<&[u8]>, value: Option<&[u8]>, header: Option<Option<&[u8]>>| Record {
        topic: platform.topic("hostile.events.v1"),
        partition: Some(0),
        key: key.map(<[u8]>::to_vec),
        payload: value.map(<[u8]>::to_vec),
        headers: header.map(|value| ("h".to_owned(), value.map(<[u8]>::to_vec))).into_iter().collect(),
        timestamp_ms: None,
    };
    platform.publish(&[
        record(Some(b"key"), Some(b"value"), Some(Some(b"header"))),
        record(None, Some(b"value"), Some(None)),
        record(Some(b""), Some(b""), Some(Some(b""))),
        record(None, None, Some(None)),
    ]);
    let host = platform.start_host("host");
    let status = platform.until_through("witness");
    assert_closed(&status, 4, 0, 0);
    let columns = [
        "place",
        "has_key",
        "key_bytes",
        "has_value",
        "value_bytes",
        "headers",
        "has_header",
        "header_bytes",
    ];
    let given = rows(platform.read_model(), "witness", "given", &columns);
    let given: Vec<String> =
        given.iter().map(|row| row.iter().flatten().cloned().collect::<Vec<_>>().join(" ")).collect();
    let expected = ["0 1 3 1 5 1 1 6", "1 0 0 1 5 1 0 0", "2 1 0 1 0 1 1 0", "3 0 0 0 0 1 0 0"];
    assert_eq!(given, expected);
    host.sigterm();
}

/// A deed, the event's id, and the code and the column of its dead letter, if it is one.
type Unstorable = (&'static str, &'static str, Option<(&'static str, &'static str)>);

/// Events for the hostile guest, and the code and column of those that no store can hold.
const UNSTORABLE: [Unstorable; 16] = [
    ("write", "first", None),
    ("nul-text", "a", Some(("invalid-value", "note"))),
    ("bad-json", "a", Some(("invalid-value", "document"))),
    ("nul-json", "a", Some(("invalid-value", "document"))),
    ("nan", "a", Some(("invalid-value", "ratio"))),
    ("decimal-overflow", "a", Some(("invalid-value", "amount"))),
    ("timestamp-overflow", "a", Some(("invalid-value", "at"))),
    ("null-key", "a", Some(("null-key", "id"))),
    ("add-overflow", "one", None),
    ("write", "between", None),
    ("add-overflow", "one", Some(("overflow", "total"))),
    ("add-overflow", "two", None),
    ("write", "first", None),
    ("add-overflow", "one", Some(("overflow", "total"))),
    ("add-overflow", "two", Some(("overflow", "total"))),
    ("write", "last", None),
];

/// What a store was left with.
#[derive(Debug, PartialEq)]
struct Left {
    dead: Vec<(i64, String, Option<Vec<u8>>)>,
    rows: Vec<Vec<Vec<Option<String>>>>,
}

/// Fault 34, in one batch or in many: an overflow meets what the batch adds, or what is stored.
fn unstorable(name: &str, read_model: ReadModel, batch: i64) -> Left {
    let plugins = Plugins::new(&["hostile-guest"]);
    let platform = Platform::new(name, &[], read_model)
        .set(&["failures", "policy"], "dead-letter")
        .set(&["plugins", "directory"], plugins.path())
        .set(&["batch", "events"], batch);
    platform.create_topics(1);
    let topic = platform.topic("hostile.events.v1");
    let records: Vec<Record> = UNSTORABLE
        .iter()
        .map(|(deed, id, _)| Record::new(&*topic, *id, json!({"do": deed, "id": id}).to_string()))
        .collect();
    platform.publish(&records);
    let host = platform.start_host("host");
    let status = platform.until_through("hostile");
    let letters = dead_letters(platform.read_model(), "hostile");
    let expected: Vec<_> =
        (0..).zip(UNSTORABLE).filter_map(|(at, event)| Some((at, event.0, event.2?))).collect();
    assert_eq!(letters.len(), expected.len(), "{letters:#?}");
    for (letter, (offset, deed, (code, column))) in letters.iter().zip(&expected) {
        assert_eq!((letter.offset, letter.code.as_str()), (*offset, *code), "{deed}: {letter:?}");
        assert!(letter.detail.contains(column), "{deed}: the column {column} is not in {:?}", letter.detail);
    }
    assert_closed(&status, UNSTORABLE.len(), 0, expected.len());
    host.sigterm();
    let read_model = platform.read_model();
    Left {
        dead: letters.into_iter().map(|letter| (letter.offset, letter.verdict(), letter.payload)).collect(),
        rows: vec![
            rows(read_model, "hostile", "survivor", &["id", "note"]),
            rows(read_model, "hostile", "odd_value", &["id"]),
            rows(read_model, "hostile", "tally", &["id", "total"]),
        ],
    }
}

#[test]
fn what_no_store_can_hold_is_refused_with_its_column_the_same_in_both_stores() {
    let postgres = unstorable("unstorable-pg", ReadModel::postgres(), 100);
    let text = |cells: [&str; 2]| cells.map(|cell| Some(cell.to_owned())).to_vec();
    let max = i64::MAX.to_string();
    assert_eq!(
        postgres.rows,
        [
            vec![text(["between", "written"]), text(["first", "written"]), text(["last", "written"])],
            vec![],
            vec![text(["one", &max]), text(["two", &max])]
        ]
    );
    assert_eq!(postgres, unstorable("unstorable-lite", ReadModel::sqlite(), 100));
    assert_eq!(postgres, unstorable("unstorable-pg-1", ReadModel::postgres(), 1), "event by event");
}

/// A plugin without reads, so that another way through the host is taken, and with values that the
/// SDK's types do not let through.
fn numbers() -> Vec<u8> {
    let descriptor = json!({
        "name": "numbers", "version": "1",
        "topics": [{"name": "hostile.events.v1", "statements": ["add", "put"]}],
        "tables": [{"name": "number", "key": ["id"], "columns": [
            {"name": "id", "type": "text"}, {"name": "price", "type": "decimal(6,2)", "nullable": true},
            {"name": "ratio", "type": "float64", "nullable": true}, {"name": "document", "type": "json", "nullable": true},
            {"name": "seen_at", "type": "timestamp", "nullable": true}]}],
        "statements": [
            {"name": "add", "table": "number", "kind": "upsert", "set": [{"column": "price", "operation": "add"}]},
            {"name": "put", "table": "number", "kind": "upsert",
             "set": [{"column": "ratio"}, {"column": "document"}, {"column": "seen_at"}]}],
    });
    let mut guest = Guest::describing(&descriptor.to_string());
    let mut answers: Vec<usize> = ["9999.99", "0.01", "garbage", "NaN", "1e3", "", "0.001", "-9999.99"]
        .iter()
        .map(|price| guest.changes(&[(0, &[Argument::Text(b"sum"), Argument::Decimal(price)])]))
        .collect();
    answers.extend(
        [(f64::NAN, "{}", 0), (0.5, "{\"a\": 1e99999}", 0), (0.5, "{}", i64::MIN), (0.5, "{\"a\": 1}", 1)]
            .map(|(ratio, document, at)| {
                let arguments = [
                    Argument::Text(b"put"),
                    Argument::Float64(ratio),
                    Argument::Json(document),
                    Argument::Timestamp(at),
                ];
                guest.changes(&[(1, &arguments)])
            }),
    );
    for prices in [["0.01", "0.01"], ["9999.90", "0.08"]] {
        let adds = prices.map(|price| guest.arguments(&[Argument::Text(b"sum"), Argument::Decimal(price)]));
        answers.push(guest.calls(&adds.map(|arguments| (0, arguments, 2))));
    }
    guest.answering(&answers).component()
}

/// Fault 34: the sum overflows its column's digits, against a stored row or within a batch.
fn odd_numbers(name: &str, read_model: ReadModel, batch: i64) -> Left {
    const FATES: [(u8, &str, &str); 16] = [
        (b'A', "", ""),                      // 9999.99
        (b'B', "overflow", "price"),         // + 0.01
        (b'C', "invalid-value", "price"),    // garbage
        (b'D', "invalid-value", "price"),    // NaN
        (b'E', "invalid-value", "price"),    // 1e3
        (b'F', "invalid-value", "price"),    // nothing
        (b'G', "invalid-value", "price"),    // 0.001
        (b'H', "", ""),                      // - 9999.99: 0 again
        (b'B', "", ""),                      // 0.01
        (b'A', "overflow", "price"),         // + 9999.99
        (b'I', "invalid-value", "ratio"),    // NaN
        (b'J', "invalid-value", "document"), // a number beyond numeric
        (b'K', "invalid-value", "seen_at"),  // before year 1
        (b'L', "", ""),
        (b'M', "", ""),              // + 0.01 + 0.01
        (b'N', "overflow", "price"), // + 9999.90 + 0.08
    ];
    let plugins = Plugins::new(&[]).add("numbers.wasm", numbers());
    let platform = Platform::new(name, &[], read_model)
        .set(&["failures", "policy"], "dead-letter")
        .set(&["plugins", "directory"], plugins.path())
        .set(&["batch", "events"], batch);
    platform.create_topics(1);
    let topic = platform.topic("hostile.events.v1");
    platform.publish(&FATES.map(|(payload, ..)| Record::new(&*topic, "k", vec![payload])));
    let host = platform.start_host("host");
    let status = platform.until_through("numbers");
    let letters = dead_letters(platform.read_model(), "numbers");
    let dead: Vec<_> = (0..).zip(FATES).filter(|(_, (_, code, _))| !code.is_empty()).collect();
    let found: Vec<_> = letters.iter().map(|letter| (letter.offset, letter.code.as_str())).collect();
    assert_eq!(found, dead.iter().map(|(at, (_, code, _))| (*at, *code)).collect::<Vec<_>>(), "{letters:#?}");
    for (letter, (_, (_, _, column))) in letters.iter().zip(&dead) {
        assert!(letter.detail.contains(column), "the column {column} is not in {letter:?}");
    }
    assert_closed(&status, FATES.len(), 0, dead.len());
    host.sigterm();
    Left {
        dead: letters.into_iter().map(|letter| (letter.offset, letter.verdict(), letter.payload)).collect(),
        rows: vec![rows(platform.read_model(), "numbers", "number", &["id", "price"])],
    }
}

#[test]
fn odd_numbers_are_refused_with_their_column_the_same_in_both_stores() {
    let postgres = odd_numbers("numbers-pg", ReadModel::postgres(), 100);
    assert_eq!(postgres.rows[0][1], [Some("sum".to_owned()), Some("0.03".to_owned())]);
    assert_eq!(postgres, odd_numbers("numbers-lite", ReadModel::sqlite(), 100));
    assert_eq!(postgres, odd_numbers("numbers-pg-1", ReadModel::postgres(), 1), "event by event");
}
