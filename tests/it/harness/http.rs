//! A request to a host's admin API, as simple as HTTP allows.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

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
