//! A Postgres cluster of one's own.

mod certificates;
mod database;
mod installation;
mod pgbouncer;

use std::env;
use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

pub use certificates::{Certificate, Issuer};
pub use database::Database;
use installation::Installation;
pub use pgbouncer::PgBouncer;

use crate::directory::ServerDirectory;
use crate::port;
use crate::process::Process;

const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// The sessions of a killed server notice its death on their own; until then a new one refuses to
/// start, with this in its log.
const STILL_IN_USE: &str = "pre-existing shared memory block";

const SETTINGS: [(&str, &str); 5] = [
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "200"),
    ("shared_buffers", "64MB"),
    ("log_line_prefix", "%m [%p] %d "),
    ("log_min_duration_statement", "1000"),
];

/// A server on loopback whose superuser `postgres` needs no password. It sorts text as people do
/// (ICU, en-US) where the build has ICU, so that a comparison that forgot its collation shows.
///
/// As a [`Database`] it is the database `postgres`.
pub struct Postgres {
    process: Option<Process>,
    installation: Installation,
    database: Database,
    port: u16,
    settings: Vec<(String, String)>,
    /// Last, so that the process is gone before its directory is removed.
    directory: ServerDirectory,
}

impl Postgres {
    /// Starts a new cluster; returns when it accepts connections. A commit is flushed to disk.
    pub fn start() -> Result<Postgres> {
        Postgres::start_with(&[])
    }

    /// Like [`Postgres::start`], but a commit is only handed to the operating system: it outlives a server that is
    /// killed, and not a machine that is.
    pub fn start_unflushed() -> Result<Postgres> {
        Postgres::start_with(&[("fsync", "off")])
    }

    /// Like [`Postgres::start`], with settings beside or instead of those that this crate chose, as
    /// in `postgresql.conf`: `("fsync", "off")` for speed.
    pub fn start_with(settings: &[(&str, &str)]) -> Result<Postgres> {
        let mut postgres = Postgres::at_rest()?;
        postgres.remember(&SETTINGS);
        postgres.remember(settings);
        postgres.initialize()?;
        postgres.launch()?;
        Ok(postgres)
    }

    /// Not started, without settings, and without a data directory.
    fn at_rest() -> Result<Postgres> {
        let installation = Installation::locate_or_install()?;
        let port = port::free()?;
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        Ok(Postgres {
            process: None,
            database: Database::new(url, installation.path("psql")),
            installation,
            port,
            settings: Vec::new(),
            directory: ServerDirectory::create("postgres")?,
        })
    }

    /// A server that several tests share: the one at `DATABASE_URL` when that is set, otherwise one
    /// started for this process at the first call. Tests create databases of their own there, and
    /// roles with names of their own.
    ///
    /// # Panics
    /// When no server can be had.
    pub fn shared() -> &'static Database {
        static SHARED: OnceLock<(Database, Option<Postgres>)> = OnceLock::new();
        let (database, _) = SHARED.get_or_init(|| match env::var("DATABASE_URL") {
            Ok(url) => {
                let psql = Installation::locate_or_install()
                    .map_or_else(|_| PathBuf::from("psql"), |installation| installation.path("psql"));
                (Database::new(url, psql), None)
            }
            Err(_) => match Postgres::start_unflushed() {
                Ok(postgres) => (postgres.database.clone(), Some(postgres)),
                Err(error) => panic!("no Postgres for this test: {error:#}"),
            },
        });
        database
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the postmaster, unless the server is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Another server with a copy of this one's data directory, taken while this one runs. It has the same system
    /// identifier, and its databases have the same oids.
    pub fn base_backup(&self) -> Result<Postgres> {
        let mut copy = Postgres::at_rest()?;
        copy.settings.clone_from(&self.settings);
        copy.installation.create_owned_directory(&copy.data())?;
        // The server refuses a directory that others may read.
        fs::set_permissions(copy.data(), fs::Permissions::from_mode(0o700))?;
        let mut backup = copy.installation.as_owner("pg_basebackup");
        backup.current_dir("/").args(["--host", "127.0.0.1", "--port", &self.port.to_string()]);
        backup
            .args(["--username", "postgres", "--checkpoint", "fast", "--no-sync", "--pgdata"])
            .arg(copy.data());
        let output = backup.output()?;
        ensure!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        copy.launch()?;
        Ok(copy)
    }

    /// SIGKILL to the postmaster. Its sessions end when they notice, at the latest at their next
    /// wait.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Rolls back what is open, disconnects everybody and stops.
    pub fn stop_fast(&mut self) -> Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        process.end(Signal::INT, STOP_PATIENCE)?;
        Ok(())
    }

    /// Starts the server again with its data, on its port; stops it before, if it still runs.
    pub fn restart(&mut self) -> Result<()> {
        self.restart_with(&[])
    }

    /// Like [`Postgres::restart`], with settings that hold from now on.
    pub fn restart_with(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        self.stop_fast()?;
        self.remember(settings);
        self.launch()
    }

    /// Who may connect, and how: the lines of `pg_hba.conf`, from the next connection on. The superuser of
    /// this machine's sockets is let in besides, and so is this crate.
    pub fn let_in(&self, lines: &str) -> Result<()> {
        let lines = format!("local all postgres trust\nhost postgres postgres 127.0.0.1/32 trust\n{lines}\n");
        fs::write(self.data().join("pg_hba.conf"), lines)?;
        self.reload()
    }

    /// Has the server read its files again; returns when new sessions see them.
    fn reload(&self) -> Result<()> {
        const LOADED: &str = "select pg_conf_load_time();\n";
        let before = self.execute(LOADED)?;
        self.execute("select pg_reload_conf();\n")?;
        let deadline = Instant::now() + START_PATIENCE;
        while self.execute(LOADED)? == before {
            ensure!(Instant::now() < deadline, "the server does not read its files again");
        }
        Ok(())
    }

    /// Turns TLS on, or gives it another certificate; `authority` vouches for clients.
    pub fn encrypt(&self, own: &Certificate, authority: &Issuer) -> Result<()> {
        for (from, to) in [
            (&own.certificate, "server.crt"),
            (&own.key, "server.key"),
            (&authority.certificate(), "root.crt"),
        ] {
            self.installation.give(from, &self.data().join(to))?;
        }
        self.execute("alter system set ssl_ca_file = 'root.crt';\nalter system set ssl = on;\n")?;
        self.reload()
    }

    /// Changes a setting of the running server, for all sessions, without a restart. One that was
    /// given at a start cannot be changed like this: use [`Postgres::restart_with`].
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        ensure!(
            self.settings.iter().all(|(given, _)| given != name),
            "{name} was given when the server was started: restart_with changes it"
        );
        let value = value.replace('\'', "''");
        self.execute(&format!("alter system set {name} = '{value}';\nselect pg_reload_conf();\n"))?;
        Ok(())
    }

    /// Lets no file of the server's grow beyond so many bytes, which is to it as if its disk were
    /// full: a write that would go beyond is cut short. `None`: they may grow again. The log is made
    /// of files of 16 MiB, which is the least that lets the server run on.
    ///
    /// By util-linux's `prlimit`.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let postmaster = self.pid().context("the server is stopped")?;
        let limit = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        // Sessions to come inherit it; those that are there must be told, unless they end meanwhile.
        let sessions = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
        let postmaster = postmaster.to_string();
        for pid in [&*postmaster].into_iter().chain(sessions.split_whitespace()) {
            let output = self
                .installation
                .as_owner("/usr/bin/prlimit")
                .args(["--pid", pid, &format!("--fsize={limit}:")])
                .output()?;
            ensure!(
                output.status.success() || (pid != postmaster && !Path::new("/proc").join(pid).exists()),
                "prlimit: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// A later value of a setting replaces an earlier one.
    fn remember(&mut self, settings: &[(&str, &str)]) {
        for (name, value) in settings {
            self.settings.retain(|(given, _)| given != name);
            self.settings.push((name.to_string(), value.to_string()));
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn initialize(&self) -> Result<()> {
        self.installation.create_owned_directory(&self.data())?;
        let mut initdb = self.installation.as_owner("initdb");
        initdb.current_dir("/").arg("--pgdata").arg(self.data()).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        if self.knows_icu() {
            initdb.args(["--locale-provider=icu", "--icu-locale=en-US"]);
        }
        let output = initdb.output()?;
        ensure!(
            output.status.success(),
            "initdb failed: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// From version 15 on, when built with ICU.
    fn knows_icu(&self) -> bool {
        let built_with = Command::new(self.installation.path("pg_config")).arg("--configure").output();
        let options = Command::new(self.installation.path("initdb")).arg("--help").output();
        let says = |output: std::io::Result<std::process::Output>, word: &str| {
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(word))
        };
        says(options, "--icu-locale") && says(built_with, "--with-icu")
    }

    fn launch(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match self.try_launch() {
                Err(error) if error.to_string().contains(STILL_IN_USE) && Instant::now() < deadline => {}
                result => return result,
            }
        }
    }

    fn try_launch(&mut self) -> Result<()> {
        let log = self.directory.path().join("postgres.log");
        let mut postgres = self.installation.as_owner("postgres");
        postgres.current_dir("/").arg("-D").arg(self.data()).arg("-k").arg(self.data());
        postgres.arg("-p").arg(self.port.to_string());
        for (name, value) in &self.settings {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        // SIGQUIT makes the postmaster end its sessions and itself at once.
        let mut process = Process::start("Postgres", postgres, &log, Signal::QUIT)?;
        process.await_ready(START_PATIENCE, || self.accepts_connections())?;
        self.process = Some(process);
        Ok(())
    }

    fn accepts_connections(&self) -> bool {
        Command::new(self.installation.path("pg_isready"))
            .args(["--quiet", "--host", "127.0.0.1", "--port", &self.port.to_string()])
            .stdin(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Deref for Postgres {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A kill would leave the sessions to notice on their own.
        if let Some(process) = self.process.take() {
            let _ = process.end(Signal::QUIT, STOP_PATIENCE);
        }
    }
}
