//! A way to a server on which all connections can be cut at once, as when it is restarted or a network breaks.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use projector_test_servers::Kafka;

use super::way;

/// Lives as long as the process.
pub(crate) struct CuttingProxy {
    port: u16,
    /// One end of each connection that is open, by the order in which they came.
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl CuttingProxy {
    pub(crate) fn to(server_port: u16) -> CuttingProxy {
        let (listener, port) = way::listen();
        CuttingProxy::on(listener, port, server_port)
    }

    /// Before a Kafka of its own, which tells clients the proxy's address as its own.
    pub(crate) fn before_kafka() -> (CuttingProxy, Kafka) {
        let (listener, port) = way::listen();
        let advertised = format!("PLAINTEXT://127.0.0.1:{port}");
        let kafka = Kafka::start_with(&[("advertised.listeners", &advertised)]).unwrap();
        (CuttingProxy::on(listener, port, kafka.port()), kafka)
    }

    fn on(listener: TcpListener, port: u16, server_port: u16) -> CuttingProxy {
        let proxy = CuttingProxy { port, open: Arc::default() };
        let open = proxy.open.clone();
        way::serve(listener, server_port, move |client, server| {
            let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let mut open = open.lock().unwrap();
            open.retain(|client| client.peer_addr().is_ok());
            open.push(client.try_clone().unwrap());
            for (from, to) in [(from_client, server), (from_server, client)] {
                thread::spawn(move || carry(from, to));
            }
        });
        proxy
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The same database, by this way.
    pub(crate) fn url(&self, url: &str) -> String {
        way::url(url, self.port)
    }

    /// Ends every connection that is open. Returns how many those were. New ones are carried.
    pub(crate) fn cut(&self) -> usize {
        let cut = std::mem::take(&mut *self.open.lock().unwrap());
        cut.iter().filter(|client| client.shutdown(Shutdown::Both).is_ok()).count()
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}
