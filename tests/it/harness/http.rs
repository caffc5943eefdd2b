//! A request to a host's admin API, as simple as HTTP allows.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::{Host, Platform, eventually};

/// The status and the document of an answer.
pub(crate) fn request(address: &str, token: Option<&str>, what: &str, body: &str) -> (u16, Value) {
    let (method, path) = what.split_once(' ').expect("a method and a path");
    let authorization = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: projector\r\nconnection: close\r\n{authorization}content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    // Whoever refuses what is too long does not read all of it.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let document = answer.split_once("\r\n\r\n").map(|(_, document)| document).unwrap_or_default();
    (status, serde_json::from_str(document).unwrap_or_default())
}

/// Lets Ann see what a host tries again.
pub(crate) fn with_admin(platform: Platform) -> Platform {
    platform
        .set(&["admin", "listen"], "127.0.0.1:0")
        .set(&["admin", "tokens", "ann", "token"], "ann's")
        .set(&["admin", "tokens", "ann", "may"], "read")
}

/// What a host tries again, of a platform with Ann.
pub(crate) fn retrying(host: &Host) -> Vec<Value> {
    let address = host.log().until_said("the admin API is listening");
    let (_, retrying) = request(address.field("address"), Some("ann's"), "GET /v1/retrying", "");
    retrying.as_array().cloned().unwrap_or_default()
}

/// Waits until a host tells that it tries something again, of this kind and with this word.
#[track_caller]
pub(crate) fn until_told(host: &Host, kind: &str, word: &str) -> Value {
    eventually(&format!("{kind}, {word:?} is told"), || {
        let all = retrying(host);
        let says = |one: &&Value| {
            one["kind"] == kind && one["cause"].as_str().is_some_and(|cause| cause.contains(word))
        };
        all.iter().find(says).cloned().ok_or_else(|| all.clone())
    })
}

/// Waits until a host tries nothing again any more.
#[track_caller]
pub(crate) fn until_nothing_is_retried(host: &Host) {
    eventually("nothing is tried again any more", || {
        let all = retrying(host);
        if all.is_empty() { Ok(()) } else { Err(all) }
    });
}
