//! A way to a Postgres on which the answer to one commit is lost.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::way;

/// How a client commits: a simple query, with its type and length before it, and its NUL behind.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// Lives as long as the process.
pub(crate) struct LossyProxy {
    port: u16,
    /// Whether the answer to the next commit is to be lost.
    armed: Arc<AtomicBool>,
}

impl LossyProxy {
    /// Loses nothing before it is told to.
    pub(crate) fn to(server_port: u16) -> LossyProxy {
        let (listener, port) = way::listen();
        let proxy = LossyProxy { port, armed: Arc::default() };
        let armed = proxy.armed.clone();
        way::serve(listener, server_port, move |client, server| {
            let armed = armed.clone();
            thread::spawn(move || serve(client, server, &armed));
        });
        proxy
    }

    /// The answer to the next commit is lost, together with its connection.
    pub(crate) fn lose_the_answer_to_the_next_commit(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// The same database, by this way.
    pub(crate) fn url(&self, url: &str) -> String {
        way::url(url, self.port)
    }

    pub(crate) fn has_lost_an_answer(&self) -> bool {
        !self.armed.load(Ordering::SeqCst)
    }
}

/// Carries one connection until it ends, or until an answer is lost.
fn serve(client: TcpStream, server: TcpStream, armed: &AtomicBool) {
    let lost = Arc::new(AtomicBool::new(false));
    let answers = thread::spawn({
        let (server, client, lost) = (server.try_clone().unwrap(), client.try_clone().unwrap(), lost.clone());
        // The server answers a commit when it is done.
        move || carry(server, client, |_| !lost.load(Ordering::SeqCst))
    });
    carry(client, server, |bytes| {
        if bytes == COMMIT && armed.swap(false, Ordering::SeqCst) {
            lost.store(true, Ordering::SeqCst);
        }
        true
    });
    let _ = answers.join();
}

/// Carries bytes until their end, or until they are not `wanted`; then the connection ends for both.
fn carry(mut from: TcpStream, mut to: TcpStream, mut wanted: impl FnMut(&[u8]) -> bool) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if !wanted(&bytes[..read]) || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}
