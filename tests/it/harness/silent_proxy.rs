//! A way to a Postgres whose connections can fall silent, as in a failover behind one address or when a
//! network forgets them: they stay open, and carry nothing any more.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::way;

/// Lives as long as the process.
pub(crate) struct SilentProxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    opened: AtomicU64,
    /// Those that were opened before so many others are silent for ever.
    silent_before: AtomicU64,
    /// So are those that are opened now.
    mute: AtomicBool,
    swallowed: AtomicU64,
}

impl SilentProxy {
    pub(crate) fn to(server_port: u16) -> SilentProxy {
        let (listener, port) = way::listen();
        let proxy = SilentProxy { port, state: Arc::new(State::default()) };
        let state = proxy.state.clone();
        way::serve(listener, server_port, move |client, server| {
            let number = state.opened.fetch_add(1, Ordering::SeqCst);
            let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            for (from, to) in [(from_client, server), (from_server, client)] {
                let state = state.clone();
                thread::spawn(move || carry(from, to, number, &state));
            }
        });
        proxy
    }

    /// The same database, by this way.
    pub(crate) fn url(&self, url: &str) -> String {
        way::url(url, self.port)
    }

    /// What is open now carries nothing any more; new connections do.
    pub(crate) fn silence_old(&self) {
        self.state.silent_before.store(self.state.opened.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Nothing is carried any more, until it is [healed](Self::heal).
    pub(crate) fn silence_all(&self) {
        self.state.mute.store(true, Ordering::SeqCst);
        self.silence_old();
    }

    /// New connections carry again. Those that fell silent stay so.
    pub(crate) fn heal(&self) {
        self.silence_old();
        self.state.mute.store(false, Ordering::SeqCst);
    }

    /// Reads whose bytes were not carried on.
    pub(crate) fn swallowed(&self) -> u64 {
        self.state.swallowed.load(Ordering::SeqCst)
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, number: u64, state: &State) {
    let mut bytes = vec![0; 64 * 1024];
    let is_silent =
        || state.mute.load(Ordering::SeqCst) || number < state.silent_before.load(Ordering::SeqCst);
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if is_silent() {
            state.swallowed.fetch_add(1, Ordering::SeqCst);
        } else if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // A silent one does not even tell its end.
    if !is_silent() {
        let _ = to.shutdown(Shutdown::Both);
    }
}
