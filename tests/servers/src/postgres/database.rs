//! A Postgres seen from outside: where it is reached, and what a superuser may do there.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

/// A database at a URL, whoever runs its server.
#[derive(Debug, Clone)]
pub struct Database {
    url: String,
    psql: PathBuf,
}

impl Database {
    pub(super) fn new(url: String, psql: PathBuf) -> Database {
        Database { url, psql }
    }

    /// `postgres://user@host:port/database`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs `sql` with psql, one statement after the other, each on its own; returns the rows, one
    /// a line, with columns separated by `|`.
    pub fn execute(&self, sql: &str) -> Result<String> {
        self.execute_at(&self.url, sql)
    }

    /// The same, in another database of the server.
    pub fn execute_in(&self, database: &str, sql: &str) -> Result<String> {
        self.execute_at(&self.sibling_url(database), sql)
    }

    fn execute_at(&self, url: &str, sql: &str) -> Result<String> {
        let output = Command::new(&self.psql)
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set", "ON_ERROR_STOP=1", "--dbname", url])
            .args(sql.split_inclusive(";\n").flat_map(|statement| ["--command", statement]))
            .output()
            .with_context(|| format!("cannot run {}", self.psql.display()))?;
        ensure!(output.status.success(), "psql: {}\n{sql}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Creates the database `name` on the same server and returns its URL. It is an error if there
    /// is one of that name.
    pub fn create_database(&self, name: &str) -> Result<String> {
        self.execute(&format!("create database \"{}\"", name.replace('"', "\"\"")))?;
        Ok(self.sibling_url(name))
    }

    /// Creates a database whose name nobody else uses, even on a server that many test runs share:
    /// `prefix` with a suffix. Returns its URL.
    pub fn create_unique_database(&self, prefix: &str) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.create_database(&format!("{prefix}_{now:x}_{}_{number}", std::process::id()))
    }

    /// Restores a dump of a database of this server into a new one. Returns its URL.
    pub fn dump_and_restore(&self, url: &str) -> Result<String> {
        let restored = self.create_unique_database("restored")?;
        let mut dump = Command::new(self.psql.with_file_name("pg_dump"))
            .args(["--dbname", url])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run pg_dump")?;
        let dumped = dump.stdout.take().context("it is piped")?;
        let output = Command::new(&self.psql)
            .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", &restored])
            .stdin(dumped)
            .output();
        ensure!(dump.wait()?.success(), "pg_dump failed");
        let output = output?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(restored)
    }

    /// The same URL with another database.
    fn sibling_url(&self, name: &str) -> String {
        let (address, options) = match self.url.split_once('?') {
            Some((address, options)) => (address, format!("?{options}")),
            None => (self.url.as_str(), String::new()),
        };
        let authority = address.find("://").map_or(0, |scheme| scheme + 3);
        let server = address[authority..].find('/').map_or(address, |path| &address[..authority + path]);
        format!("{server}/{name}{options}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sibling(url: &str) -> String {
        Database::new(url.to_owned(), PathBuf::new()).sibling_url("other")
    }

    #[test]
    fn a_sibling_differs_in_the_database_alone() {
        assert_eq!(sibling("postgres://me:pw@db:5433/mine"), "postgres://me:pw@db:5433/other");
        assert_eq!(sibling("postgres://me@db"), "postgres://me@db/other");
        assert_eq!(sibling("postgres://db/mine?sslmode=require"), "postgres://db/other?sslmode=require");
    }
}
