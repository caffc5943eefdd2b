//! A way to a Postgres on which the answer to one commit is lost.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;

/// How a client commits: a simple query, with its type and length before it, and its NUL behind.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// Lives as long as the process.
pub(crate) struct LossyProxy {
    port: u16,
    /// Commits that are still answered before one is not; negative: nothing is lost any more.
    commits_left: Arc<AtomicI64>,
}

impl LossyProxy {
    /// The answer to the n-th commit from now is lost, together with its connection.
    pub(crate) fn losing_the_answer_to_commit(n: i64, server_port: u16) -> LossyProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = LossyProxy {
            port: listener.local_addr().unwrap().port(),
            commits_left: Arc::new(AtomicI64::new(n)),
        };
        let commits_left = proxy.commits_left.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)) else { continue };
                let commits_left = commits_left.clone();
                thread::spawn(move || serve(client, server, &commits_left));
            }
        });
        proxy
    }

    /// The same database, by this way.
    pub(crate) fn url(&self, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").expect("a url has a scheme");
        let (user, rest) = rest.split_once('@').expect("the test servers' urls have a user");
        let (_, database) = rest.split_once('/').expect("the url has a database");
        format!("{scheme}://{user}@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn has_lost_an_answer(&self) -> bool {
        self.commits_left.load(Ordering::SeqCst) <= 0
    }
}

/// Carries one connection until it ends, or until an answer is lost.
fn serve(client: TcpStream, server: TcpStream, commits_left: &AtomicI64) {
    let lost = Arc::new(AtomicBool::new(false));
    let answers = thread::spawn({
        let (server, client, lost) = (server.try_clone().unwrap(), client.try_clone().unwrap(), lost.clone());
        // The server answers a commit when it is done.
        move || carry(server, client, |_| !lost.load(Ordering::SeqCst))
    });
    carry(client, server, |bytes| {
        if bytes == COMMIT && commits_left.fetch_sub(1, Ordering::SeqCst) == 1 {
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
