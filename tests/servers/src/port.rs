//! Loopback ports for servers that will be stopped and started again.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

const LOWEST: u16 = 15_000;
const ATTEMPTS: u64 = 1_000;

/// A loopback port that nobody listens on, and that this process has not handed out before.
///
/// It lies below the range from which the kernel takes ports for outgoing connections. Otherwise
/// such a connection could take the port while its server is down; a client that knocks at the dead
/// port could even be connected to itself.
pub(crate) fn free() -> Result<u16> {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let ports = u64::from(first_ephemeral_port() - LOWEST);
    let start = u64::from(process::id()).wrapping_mul(7_919)
        ^ SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::from(now.subsec_nanos()));
    for attempt in 0..ATTEMPTS {
        let port = LOWEST + u16::try_from((start + attempt * 101) % ports)?;
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1 from {LOWEST} on, after {ATTEMPTS} attempts")
}

fn first_ephemeral_port() -> u16 {
    const DEFAULT: u16 = 32_768;
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|first| *first > LOWEST + 1_000)
        .unwrap_or(DEFAULT)
}
