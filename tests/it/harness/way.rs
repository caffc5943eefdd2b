//! What the proxies have in common: a port of this machine, behind which each connection has one to a server.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

/// A port that nobody else has, and what listens there.
pub(super) fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Hands each new connection over, with one to the server, in the order in which they come. Lives as long as the
/// process.
pub(super) fn serve(
    listener: TcpListener,
    server_port: u16,
    mut carry: impl FnMut(TcpStream, TcpStream) + Send + 'static,
) {
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)) else { continue };
            carry(client, server);
        }
    });
}

/// The same database, by way of a port of this machine.
pub(super) fn url(url: &str, port: u16) -> String {
    let (scheme, rest) = url.split_once("://").expect("a url has a scheme");
    let (user, place) = rest.split_once('@').expect("a url names a user");
    let (_, database) = place.split_once('/').expect("a url names a database");
    format!("{scheme}://{user}@127.0.0.1:{port}/{database}")
}
