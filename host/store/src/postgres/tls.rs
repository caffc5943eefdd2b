//! TLS that trusts only the authorities of one file (`sslrootcert`).
//!
//! Why: sqlx adds these authorities to those of the system, so it would trust a server with a certificate of any public
//! authority. So the host makes such a connection itself, and sqlx connects to a [local socket](super::local_socket).

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError,
    RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::address::Member;
use super::connection_monitor::ConnectionMonitor;
use super::local_socket::{self, LocalSocket};
use crate::fault::Setup;

/// Why there is no encrypted connection.
pub(super) enum Refused {
    Setup(Setup),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Io(error)
    }
}

/// Connects, checks the server's certificate, and relays between the server and a local socket.
pub(super) async fn connect(
    member: &Member,
    (authorities, any_name): (&Path, bool),
    monitor: Arc<ConnectionMonitor>,
) -> Result<LocalSocket, Refused> {
    let config = config(member, authorities, any_name).map_err(Refused::Setup)?;
    let name = ServerName::try_from(member.host.clone())
        .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    let mut server = local_socket::connect_tcp(member).await?;
    // SSLRequest: its length, and the code of the request.
    server.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
    let mut answer = [0];
    server.read_exact(&mut answer).await?;
    if answer != *b"S" {
        return Err(Refused::Setup(no_tls(&member.name)));
    }
    let state = ClientConnection::new(Arc::new(config), name)
        .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    let mut relay = Relay { server, state };
    relay.shake_hands().await?;

    let (socket, listener) = local_socket::listen(member)?;
    tokio::spawn(async move {
        let Ok(local) = listener.accept().await else { return };
        let ended = tokio::select! {
            ended = relay.run(local, &monitor) => ended,
            () = monitor.closing() => Ok(()),
        };
        monitor.closed();
        // sqlx only sees a connection that was closed, so the reason is logged here.
        if let Err(error) = ended {
            tracing::warn!(%error, "an encrypted connection to a store failed");
        }
    });
    Ok(socket)
}

pub(super) fn no_tls(name: &str) -> Setup {
    Setup::new(
        format!("{name}: the server has no TLS"),
        "turn on `ssl` at the server, or set sslmode=disable in the store's url if the network is your own",
    )
}

fn config(member: &Member, authorities: &Path, any_name: bool) -> Result<ClientConfig, Setup> {
    let unreadable = |parameter: &str, file: &Path, reason: String| {
        Setup::new(
            format!("{parameter}={} of the store's url: {reason}", file.display()),
            "name a readable file in PEM",
        )
    };
    let certificates = |parameter: &str, file: &Path| {
        CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(parameter, file, error.to_string()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("sslrootcert", authorities)? {
        roots.add(certificate).map_err(|error| unreadable("sslrootcert", authorities, error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("sslrootcert", authorities, "it holds no certificate".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| unreadable("sslrootcert", authorities, error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unreadable("sslrootcert", authorities, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { verifier, any_name, provider }));
    match (&member.certificate, &member.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("sslcert", certificate)?;
            let wrong = |error: String| unreadable("sslkey", key, error);
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(error.to_string()))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| wrong(error.to_string()))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// Accepts a certificate that one of the authorities signed, that has not expired, and that is for the host. With `any_name`
/// it may be for another host.
#[derive(Debug)]
struct Pinned {
    verifier: Arc<WebPkiServerVerifier>,
    any_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let verified = self.verifier.verify_server_cert(certificate, intermediates, name, ocsp, now);
        match verified {
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Relays bytes between sqlx and the server. Holds at most one buffer in each direction.
struct Relay {
    server: TcpStream,
    state: ClientConnection,
}

/// A stream that never waits, as rustls needs it.
struct AtOnce<'s>(&'s TcpStream);

impl Read for AtOnce<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `None`: the operation would have to wait.
fn at_once<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

impl Relay {
    async fn shake_hands(&mut self) -> io::Result<()> {
        while self.state.is_handshaking() || self.state.wants_write() {
            if self.state.wants_write() {
                if at_once(self.state.write_tls(&mut AtOnce(&self.server)))?.is_none() {
                    self.server.writable().await?;
                }
            } else if self.receive()?.is_none() {
                self.server.readable().await?;
            }
        }
        Ok(())
    }

    /// Reads what the server has sent. 0: the server has closed the connection.
    fn receive(&mut self) -> io::Result<Option<usize>> {
        let Some(bytes) = at_once(self.state.read_tls(&mut AtOnce(&self.server)))? else { return Ok(None) };
        if bytes == 0 && self.state.is_handshaking() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let processed = self.state.process_new_packets();
        if processed.is_err() {
            // Sends the alert, which tells the server the reason.
            let _ = self.state.write_tls(&mut AtOnce(&self.server));
        }
        processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(Some(bytes))
    }

    async fn run(mut self, local: UnixStream, monitor: &ConnectionMonitor) -> io::Result<()> {
        let mut buffer = vec![0; 32 * 1024];
        // Bytes of the server, and how many of them sqlx has got.
        let (mut inbound, mut given) = (Vec::<u8>::new(), 0);
        loop {
            let mut moved = false;
            if given == inbound.len() {
                match at_once(self.state.reader().read(&mut buffer)) {
                    Ok(Some(0)) => return Ok(()),
                    Ok(Some(bytes)) => {
                        monitor.received();
                        (inbound, given, moved) = (buffer[..bytes].to_vec(), 0, true);
                    }
                    Ok(None) => match self.receive()? {
                        Some(0) => return Ok(()),
                        Some(_) => moved = true,
                        None => {}
                    },
                    Err(error) => return Err(error),
                }
            }
            if given < inbound.len()
                && let Some(bytes) = at_once(local.try_write(&inbound[given..]))?
            {
                (given, moved) = (given + bytes, true);
            }
            if self.state.wants_write() {
                if at_once(self.state.write_tls(&mut AtOnce(&self.server)))?.is_some() {
                    monitor.sent();
                    moved = true;
                }
            } else if let Some(bytes) = at_once(local.try_read(&mut buffer))? {
                if bytes == 0 {
                    self.state.send_close_notify();
                    self.shake_hands().await?;
                    return self.server.shutdown().await;
                }
                monitor.sent();
                self.state.writer().write_all(&buffer[..bytes])?;
                moved = true;
            }
            if moved {
                continue;
            }
            let (sending, giving) = (self.state.wants_write(), given < inbound.len());
            tokio::select! {
                ready = self.server.readable(), if !giving => ready?,
                ready = self.server.writable(), if sending => ready?,
                ready = local.readable(), if !sending => ready?,
                ready = local.writable(), if giving => ready?,
            }
        }
    }
}
