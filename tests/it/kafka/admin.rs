//! The admin API answers those who may ask, and does nothing for anybody else.

use serde_json::json;

use crate::harness::{GATES, Gates, Host, ReadModel, request};

/// A platform on which Ann may operate, and Bob may look.
fn with_admin(name: &str) -> Gates {
    let gates = Gates::new(name, 1, ReadModel::postgres()).set(&["admin", "listen"], "127.0.0.1:0");
    [("ann", "operate"), ("bob", "read")].into_iter().fold(gates, |gates, (name, may)| {
        gates
            .set(&["admin", "tokens", name, "token"], format!("token of {name}"))
            .set(&["admin", "tokens", name, "may"], may)
    })
}

fn address(host: &Host) -> String {
    let line = host.log().wait_for("where it listens", |line| line.message() == "the admin API is listening");
    line.field("address").to_owned()
}

/// Fault 41.
#[test]
fn a_request_without_rights_malformed_or_huge_changes_nothing() {
    let gates = with_admin("rights");
    let host = gates.start_host("host");
    let address = address(&host);
    gates.publish(&["a1 if x", "a2"]);
    gates.until_through();
    let letter = gates.only_letter();
    let (ann, bob) = (Some("token of ann"), Some("token of bob"));
    let pause = format!("POST /v1/projections/{GATES}/pause");
    let discard = format!("POST /v1/projections/{GATES}/dead-letters/{letter}/discard");
    let reason = r#"{"reason": "a test"}"#;
    let huge = format!(r#"{{"reason": "{}"}}"#, "x".repeat(100_000));
    for (token, what, body, status) in [
        (None, &*pause, reason, 401),
        (Some("token of carol"), &pause, reason, 401),
        (Some(""), &pause, reason, 401),
        (None, "GET /v1/projections", "", 401),
        (bob, &pause, reason, 403),
        (bob, &discard, reason, 403),
        (ann, &pause, "{", 400),
        (ann, &pause, "", 400),
        (ann, &pause, r#"{"reason": 7}"#, 400),
        (ann, &pause, r#"{"reason": "a", "reasons": "b"}"#, 400),
        (ann, &discard, "{}", 400),
        (ann, &pause, &huge, 413),
        (ann, "POST /v1/projections/gate/pause", reason, 404),
        (ann, "GET /v1/nothing", "", 404),
        (ann, &pause.replace("POST", "GET"), "", 405),
    ] {
        let (answered, document) = request(&address, token, what, body);
        assert_eq!(answered, status, "{what} {body:.60}: {document}");
    }
    assert_eq!(gates.platform.ask(&["operations"]), json!([]), "something was done");
    assert_eq!(gates.only_letter(), letter);
    gates.publish(&["b1"]);
    gates.until_through();
    host.sigterm();
}

#[test]
fn an_operator_does_over_http_what_the_command_line_does() {
    let gates = with_admin("http");
    let host = gates.start_host("host");
    let address = address(&host);
    let ask = |what: &str, body: &str| {
        let (status, document) = request(&address, Some("token of ann"), what, body);
        assert_eq!(status, 200, "{what}: {document}");
        document
    };
    gates.publish(&["a1 if x", "a2", "b1 if y", "b2"]);
    gates.open(&["x"]);
    gates.until_through();
    let letters = ask(&format!("GET /v1/projections/{GATES}/dead-letters?code=closed"), "");
    let id = |key: &str| {
        let letter = letters.as_array().unwrap().iter().find(|letter| letter["key"] == key).unwrap();
        letter["id"].to_string()
    };
    let of = |letter: &str| format!("/v1/projections/{GATES}/dead-letters/{letter}");
    assert_eq!(ask(&format!("GET {}", of(&id("a"))), "")["parked"], 1);
    let retried = ask(&format!("POST {}/retry", of(&id("a"))), "");
    assert_eq!(retried[0]["verdict"]["outcome"], "applied", "{retried}");
    let discarded = ask(&format!("POST {}/discard", of(&id("b"))), r#"{"reason": "a test"}"#);
    assert_eq!(discarded[0]["verdict"]["outcome"], "discarded", "{discarded}");
    assert_eq!(gates.trails_of(["a", "b"]), ["1 2", "2"]);

    ask(&format!("POST /v1/projections/{GATES}/pause"), r#"{"reason": "lunch"}"#);
    let shown = ask(&format!("GET /v1/projections/{GATES}"), "");
    assert_eq!(shown["projections"][0]["halted"]["reason"], "lunch");
    ask(&format!("POST /v1/projections/{GATES}/resume"), "");
    gates.publish(&["a3"]);
    gates.until_through();
    let operations = ask("GET /v1/operations", "");
    let asked: Vec<_> = operations.as_array().unwrap().iter().map(|one| &one["asked_by"]).collect();
    assert_eq!(asked, [&json!("ann"); 4]);
    assert_eq!(ask("GET /v1/retrying", ""), json!([]));
    host.sigterm();
}
