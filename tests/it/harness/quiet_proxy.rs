//! A way to a Kafka on which clients can be left without an answer, as by a network that drops
//! packets: their connections stay open, and nothing comes through any more.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use projector_test_servers::Kafka;

use super::way;

/// What a client cannot reach any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    Everything,
    /// The coordinator of its group. librdkafka talks to it on a connection of its own.
    Coordinator,
}

/// Requests of group members: JoinGroup, Heartbeat, LeaveGroup, SyncGroup.
const OF_MEMBERS: [i16; 4] = [11, 12, 13, 14];

/// The only way to its broker, which tells clients the proxy's address as its own.
pub(crate) struct QuietProxy {
    bootstrap: String,
    _kafka: Kafka,
    silenced: Arc<Silenced>,
}

#[derive(Default)]
struct Silenced {
    /// By client id.
    clients: Mutex<BTreeMap<String, Silence>>,
    swallowed: AtomicU64,
}

impl QuietProxy {
    /// One for all tests; each uses client ids of its own.
    pub(crate) fn shared() -> &'static QuietProxy {
        static SHARED: OnceLock<QuietProxy> = OnceLock::new();
        SHARED.get_or_init(QuietProxy::start)
    }

    fn start() -> QuietProxy {
        let (listener, own_port) = way::listen();
        let bootstrap = format!("127.0.0.1:{own_port}");
        let kafka =
            Kafka::start_with(&[("advertised.listeners", &format!("PLAINTEXT://{bootstrap}"))]).unwrap();
        let (port, silenced) = (kafka.port(), Arc::new(Silenced::default()));
        let proxy = QuietProxy { bootstrap, _kafka: kafka, silenced: silenced.clone() };
        way::serve(listener, port, move |client, broker| {
            let silenced = silenced.clone();
            thread::spawn(move || carry(client, broker, &silenced));
        });
        proxy
    }

    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// From now on, until it is [healed](Self::heal).
    pub(crate) fn silence(&self, client: &str, what: Silence) {
        self.silenced.clients.lock().unwrap().insert(client.to_owned(), what);
    }

    /// New connections are carried again. Those that fell silent stay so.
    pub(crate) fn heal(&self, client: &str) {
        self.silenced.clients.lock().unwrap().remove(client);
    }

    /// Requests and answers that were not carried on.
    pub(crate) fn swallowed(&self) -> u64 {
        self.silenced.swallowed.load(Ordering::Relaxed)
    }
}

/// What is known of a connection from its requests.
#[derive(Default)]
struct Known {
    client: Mutex<String>,
    to_coordinator: AtomicBool,
    /// It will never carry anything again.
    silent: AtomicBool,
}

impl Silenced {
    /// Whether something may not be carried on.
    fn swallows(&self, connection: &Known) -> bool {
        let silence = self.clients.lock().unwrap().get(&*connection.client.lock().unwrap()).copied();
        let hit = match silence {
            None => false,
            Some(Silence::Everything) => true,
            Some(Silence::Coordinator) => connection.to_coordinator.load(Ordering::Relaxed),
        };
        if connection.silent.fetch_or(hit, Ordering::Relaxed) || hit {
            self.swallowed.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        false
    }
}

/// Carries one connection until either end closes it.
fn carry(mut client: TcpStream, mut broker: TcpStream, silenced: &Arc<Silenced>) {
    let known = Arc::new(Known::default());
    let answers = thread::spawn({
        let (mut broker, mut client) = (broker.try_clone().unwrap(), client.try_clone().unwrap());
        let (known, silenced) = (known.clone(), silenced.clone());
        move || {
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = broker.read(&mut bytes) {
                if !silenced.swallows(&known) && client.write_all(&bytes[..read]).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        }
    });
    while let Ok(request) = request(&mut client) {
        // API key, version, correlation, client id.
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        if OF_MEMBERS.contains(&number(4)) {
            known.to_coordinator.store(true, Ordering::Relaxed);
        }
        let length = number(12).max(0) as usize;
        *known.client.lock().unwrap() = String::from_utf8_lossy(&request[14..14 + length]).into_owned();
        if !silenced.swallows(&known) && broker.write_all(&request).is_err() {
            break;
        }
    }
    let _ = broker.shutdown(Shutdown::Both);
    let _ = answers.join();
}

/// One whole request, with its length before it.
fn request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut request = length.to_vec();
    request.resize(4 + u32::from_be_bytes(length) as usize, 0);
    client.read_exact(&mut request[4..])?;
    Ok(request)
}
