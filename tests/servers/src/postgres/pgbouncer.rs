//! A PgBouncer before a Postgres.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use super::Postgres;
use super::installation::Installation;
use crate::directory::ServerDirectory;
use crate::packages::{self, Need, program_in_path};
use crate::port;
use crate::process::Process;

const START_PATIENCE: Duration = Duration::from_secs(30);

const PGBOUNCER: Need =
    Need { what: "PgBouncer", debian_package: "pgbouncer", is_met: || program().is_some() };

/// Asks for no password, and lets anybody in as the role that it says it is.
pub struct PgBouncer {
    _process: Process,
    port: u16,
    _directory: ServerDirectory,
}

impl PgBouncer {
    /// `settings`: lines of its configuration file, such as `pool_mode = session`.
    pub fn start(postgres: &Postgres, settings: &str) -> Result<PgBouncer> {
        packages::ensure_installed(&[&PGBOUNCER])?;
        let installation = Installation::locate_or_install()?;
        let (port, directory) = (port::free()?, ServerDirectory::create("pgbouncer")?);
        let users = directory.path().join("users.txt");
        fs::write(&users, "\"postgres\" \"\"\n")?;
        let config = directory.path().join("pgbouncer.ini");
        fs::write(
            &config,
            format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\nauth_file = {}\n{settings}\n",
                postgres.port(),
                users.display()
            ),
        )?;
        // Its database `*` says whom it is at the server.
        let text = fs::read_to_string(&config)?.replace("* = ", "* = user=postgres ");
        fs::write(&config, text)?;
        let log = directory.path().join("pgbouncer.log");
        let mut command = installation.as_owner(&program().unwrap_or_default());
        command.current_dir("/").arg(&config);
        let mut process = Process::start("PgBouncer", command, &log, Signal::KILL)?;
        process.await_ready(START_PATIENCE, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(PgBouncer { _process: process, port, _directory: directory })
    }

    /// The url of a database, through it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

/// Debian keeps it with what only root is to run.
fn program() -> Option<String> {
    let usual = std::path::Path::new("/usr/sbin/pgbouncer");
    let found = program_in_path("pgbouncer").or_else(|| usual.exists().then(|| usual.to_owned()));
    found.map(|path| path.display().to_string())
}
