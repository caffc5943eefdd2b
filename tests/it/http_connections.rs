//! Connections of strangers to the admin API take neither the host's file descriptors nor its answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::{Host, PATIENCE, Plugins, eventually};

#[test]
fn connections_with_an_unfinished_head_keep_nobody_out() {
    const DESCRIPTORS: u32 = 128;
    // More than the host could ever have.
    const STRANGERS: usize = 200;
    let settings = "[admin]\nlisten = \"127.0.0.1:0\"\n[admin.tokens.ann]\ntoken = \"a token\"\n";
    let plugins = Plugins::new(&[]);
    let host = Host::with_few_descriptors("besieged", &plugins, settings, DESCRIPTORS);
    let address = host.log().until_said("the admin API is listening").field("address").to_owned();
    let before = host.descriptors();
    let mut strangers: Vec<TcpStream> = (0..STRANGERS)
        .map(|_| {
            let mut stranger = TcpStream::connect(&address).unwrap();
            // It may have been closed already.
            let _ = stranger.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n");
            stranger
        })
        .collect();
    let mut probe = TcpStream::connect(&address).unwrap();
    probe.set_read_timeout(Some(PATIENCE)).unwrap();
    probe.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).expect("the host answers");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let most = before + DESCRIPTORS as usize / 8 + 8;
    assert!(host.descriptors() <= most, "{} of {DESCRIPTORS} are open, {before} were", host.descriptors());
    // All of them are closed, although none of them does anything.
    eventually("no connection is left", || {
        strangers.retain_mut(|stranger| {
            stranger.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            let read = stranger.read(&mut [0; 1]);
            let waits = |error: &std::io::Error| {
                matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            };
            read.is_err_and(|error| waits(&error))
        });
        if strangers.is_empty() { Ok(()) } else { Err(format!("{} are", strangers.len())) }
    });
}
