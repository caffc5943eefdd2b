//! The host's own sockets to Postgres.
//!
//! sqlx waits for an answer without end, and gives nobody a hold of its socket. So the host opens the socket,
//! has the operating system look whether the other end is there, and carries what goes over it between the
//! server and sqlx, which connects to a socket within this process. What is not answered is known
//! ([`Line`]).
//!
//! Invariants: only this process is let in; no more than a buffer each way is held.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use uuid::Uuid;

use super::address::{Member, Tls};
use super::line::Line;

/// How long sqlx may take to come in.
const PATIENCE: Duration = Duration::from_secs(10);
/// Held each way.
const BUFFER_BYTES: usize = 32 * 1024;

/// Seconds after which a connection that carries nothing is looked at, and between two looks.
const KEEPALIVE: libc::c_int = 10;
const KEEPALIVE_INTERVAL: libc::c_int = 5;
/// So many looks in vain end it.
const KEEPALIVE_LOOKS: libc::c_int = 3;
/// Milliseconds that what was sent may be without the other machine's receipt.
#[cfg(target_os = "linux")]
const RECEIPT: libc::c_int = 15_000;

/// Where sqlx is to connect. It is gone when this is dropped.
pub(super) struct Doorway {
    /// As sqlx takes it: it appends the name that Postgres gives its sockets.
    pub(super) directory: PathBuf,
}

/// Where sqlx comes in, once.
pub(super) struct Entrance(UnixListener);

pub(super) fn open(member: &Member) -> io::Result<(Doorway, Entrance)> {
    let doorway = Doorway { directory: directory(&format!("projector-{}", Uuid::new_v4()))? };
    let listener = UnixListener::bind(socket_in(&doorway.directory, member.port))?;
    Ok((doorway, Entrance(listener)))
}

/// A name that stands in no file system, which may all be read-only.
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
impl Drop for Doorway {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn socket_in(directory: &Path, port: u16) -> PathBuf {
    format!("{}/.s.PGSQL.{port}", directory.display()).into()
}

impl Entrance {
    /// Waits for sqlx. Nobody else is let in.
    pub(super) async fn admit(self) -> io::Result<UnixStream> {
        let own = i32::try_from(std::process::id()).ok();
        let admitted = async {
            loop {
                let (local, _) = self.0.accept().await?;
                if local.peer_cred()?.pid() == own {
                    return Ok(local);
                }
            }
        };
        tokio::time::timeout(PATIENCE, admitted).await?
    }
}

/// Connects to a server, and lets sqlx in to the connection.
pub(super) async fn lead_to(member: &Member, line: Arc<Line>) -> io::Result<Doorway> {
    let (doorway, entrance) = open(member)?;
    match &member.tls {
        Tls::Socket => {
            let directory = Path::new(&member.name);
            let server = UnixStream::connect(socket_in(directory, member.port)).await?;
            let (reads, writes) = server.into_split();
            tokio::spawn(async move { carry(entrance, reads, writes, &line).await });
        }
        _ => {
            let (reads, writes) = connect(member).await?.into_split();
            tokio::spawn(async move { carry(entrance, reads, writes, &line).await });
        }
    }
    Ok(doorway)
}

/// Carries until either end closes the connection, or it is ended.
async fn carry(
    entrance: Entrance,
    mut from_server: impl AsyncRead + Unpin,
    mut to_server: impl AsyncWrite + Unpin,
    line: &Line,
) -> io::Result<()> {
    let (mut from_local, mut to_local) = entrance.admit().await?.into_split();
    let asking = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let bytes = from_local.read(&mut buffer).await?;
            if bytes == 0 {
                return to_server.shutdown().await;
            }
            line.sent();
            to_server.write_all(&buffer[..bytes]).await?;
            // Not before: a large one takes its time.
            line.sent();
        }
    };
    let answering = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let bytes = from_server.read(&mut buffer).await?;
            if bytes == 0 {
                return Ok(());
            }
            line.received();
            to_local.write_all(&buffer[..bytes]).await?;
        }
    };
    let ended = tokio::select! {
        ended = asking => ended,
        ended = answering => ended,
        () = line.ended() => Ok(()),
    };
    line.closed();
    // What broke here, sqlx sees as a connection that was closed.
    ended
}

/// A connection over a network, whose other end the operating system looks after.
pub(super) async fn connect(member: &Member) -> io::Result<TcpStream> {
    let server = TcpStream::connect((&*member.host, member.port)).await?;
    server.set_nodelay(true)?;
    for (level, option, value) in [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        #[cfg(target_os = "linux")]
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_LOOKS),
        #[cfg(target_os = "linux")]
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, RECEIPT),
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
