//! Does a broker answer?

use std::io::{Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(1);

/// `ApiVersions`, version 0: the size of what follows, API key 18, API version 0, correlation id 7,
/// no client id.
const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];

/// Whether a broker on that loopback port answers the question with which every Kafka client opens.
/// A broker answers only once it is registered with its controller and may serve.
pub(super) fn answers(port: u16) -> bool {
    ask(port).is_ok_and(|error_code| error_code == 0)
}

fn ask(port: u16) -> Result<i16> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(&REQUEST)?;
    let mut size_and_correlation_id = [0; 8];
    connection.read_exact(&mut size_and_correlation_id)?;
    let mut error_code = [0; 2];
    connection.read_exact(&mut error_code)?;
    Ok(i16::from_be_bytes(error_code))
}
