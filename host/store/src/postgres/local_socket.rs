//! Connects sqlx to Postgres through a local socket, so that the host controls the socket to the server.
//!
//! Why: sqlx waits for an answer without a time limit, and does not expose its socket. So the host opens the socket to the
//! server, has the operating system check that the other end still exists (keepalive), and relays the bytes between the
//! server and a local socket, to which sqlx connects. A [`ConnectionMonitor`] records when bytes are sent and received.
//!
//! Invariants: only this process can connect to the local socket, and only once. At most one buffer is held in each
//! direction.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use uuid::Uuid;

use super::address::{Member, Tls};
use super::connection_monitor::ConnectionMonitor;

/// How long sqlx may take to connect to the local socket.
const PATIENCE: Duration = Duration::from_secs(10);
/// The size of the buffer in each direction.
const BUFFER_BYTES: usize = 32 * 1024;

/// After how many seconds without traffic the operating system checks a connection, and the seconds between two checks.
const KEEPALIVE: libc::c_int = 10;
const KEEPALIVE_INTERVAL: libc::c_int = 5;
/// After this many checks without an answer, it closes the connection.
const KEEPALIVE_CHECKS: libc::c_int = 3;
/// Milliseconds after which it closes a connection whose sent bytes were not acknowledged (`TCP_USER_TIMEOUT`).
#[cfg(target_os = "linux")]
const ACKNOWLEDGE_WITHIN: libc::c_int = 15_000;

/// The socket to which sqlx connects. Removed when this is dropped.
pub(super) struct LocalSocket {
    /// sqlx appends the name that Postgres gives its sockets.
    pub(super) directory: PathBuf,
}

/// The other end of the local socket, which accepts one connection.
pub(super) struct LocalListener(UnixListener);

pub(super) fn listen(member: &Member) -> io::Result<(LocalSocket, LocalListener)> {
    let socket = LocalSocket { directory: directory(&format!("projector-{}", Uuid::new_v4()))? };
    let listener = UnixListener::bind(socket_in(&socket.directory, member.port))?;
    Ok((socket, LocalListener(listener)))
}

/// An abstract socket address, because every file system may be read-only.
#[cfg(target_os = "linux")]
fn directory(name: &str) -> io::Result<PathBuf> {
    Ok(format!("\0{name}").into())
}

#[cfg(not(target_os = "linux"))]
fn directory(name: &str) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    Ok(directory)
}

#[cfg(not(target_os = "linux"))]
impl Drop for LocalSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn socket_in(directory: &Path, port: u16) -> PathBuf {
    format!("{}/.s.PGSQL.{port}", directory.display()).into()
}

impl LocalListener {
    /// Waits for sqlx to connect. Connections of other processes are closed.
    pub(super) async fn accept(self) -> io::Result<UnixStream> {
        let own = i32::try_from(std::process::id()).ok();
        let accepted = async {
            loop {
                let (local, _) = self.0.accept().await?;
                if local.peer_cred()?.pid() == own {
                    return Ok(local);
                }
            }
        };
        tokio::time::timeout(PATIENCE, accepted).await?
    }
}

/// Connects to a server, and relays between it and a local socket.
pub(super) async fn connect(member: &Member, monitor: Arc<ConnectionMonitor>) -> io::Result<LocalSocket> {
    let (socket, listener) = listen(member)?;
    match &member.tls {
        Tls::Socket => {
            let directory = Path::new(&member.name);
            let server = UnixStream::connect(socket_in(directory, member.port)).await?;
            let (reads, writes) = server.into_split();
            tokio::spawn(async move { relay(listener, reads, writes, &monitor).await });
        }
        _ => {
            let (reads, writes) = connect_tcp(member).await?.into_split();
            tokio::spawn(async move { relay(listener, reads, writes, &monitor).await });
        }
    }
    Ok(socket)
}

/// Relays until either end closes the connection, or the monitor does.
async fn relay(
    listener: LocalListener,
    mut from_server: impl AsyncRead + Unpin,
    mut to_server: impl AsyncWrite + Unpin,
    monitor: &ConnectionMonitor,
) -> io::Result<()> {
    let (mut from_local, mut to_local) = listener.accept().await?.into_split();
    let requests = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let bytes = from_local.read(&mut buffer).await?;
            if bytes == 0 {
                return to_server.shutdown().await;
            }
            monitor.sent();
            to_server.write_all(&buffer[..bytes]).await?;
            // The time counts from the end of the request, since a large request takes long to send.
            monitor.sent();
        }
    };
    let answers = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let bytes = from_server.read(&mut buffer).await?;
            if bytes == 0 {
                return Ok(());
            }
            monitor.received();
            to_local.write_all(&buffer[..bytes]).await?;
        }
    };
    let ended = tokio::select! {
        ended = requests => ended,
        ended = answers => ended,
        () = monitor.closing() => Ok(()),
    };
    monitor.closed();
    // Whatever the error is, sqlx sees a connection that was closed.
    ended
}

/// A connection over a network, with the operating system's checks of its other end.
pub(super) async fn connect_tcp(member: &Member) -> io::Result<TcpStream> {
    let server = TcpStream::connect((&*member.host, member.port)).await?;
    server.set_nodelay(true)?;
    for (level, option, value) in [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        #[cfg(target_os = "linux")]
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_CHECKS),
        #[cfg(target_os = "linux")]
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, ACKNOWLEDGE_WITHIN),
    ] {
        // SAFETY: the socket is open as long as `server` is, and the value is read before the call returns.
        let set = unsafe {
            libc::setsockopt(
                server.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(&value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        if set != 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, option, "an option of a connection to the database could not be set");
        }
    }
    Ok(server)
}
