//! Where the server's programs are, and who may run them.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::packages::{self, Need};

/// Where Debian keeps its versions: `<version>/bin`.
const DEBIAN: &str = "/usr/lib/postgresql";

const POSTGRES: Need =
    Need { what: "PostgreSQL", debian_package: "postgresql", is_met: || programs_directory().is_some() };

pub(super) struct Installation {
    programs: PathBuf,
    /// Postgres refuses to run as root; then this user runs it.
    stand_in: Option<User>,
}

struct User {
    uid: u32,
    gid: u32,
}

impl Installation {
    pub(super) fn locate_or_install() -> Result<Installation> {
        packages::ensure_installed(&[&POSTGRES])?;
        let programs = programs_directory().context("no PostgreSQL, although it was found just now")?;
        let stand_in = match rustix::process::geteuid().is_root() {
            true => Some(
                user("postgres").context("Postgres cannot run as root, and there is no user `postgres`")?,
            ),
            false => None,
        };
        Ok(Installation { programs, stand_in })
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.programs.join(program)
    }

    /// A command that runs as the server's owner: one of the server's programs, or any by its path.
    pub(super) fn as_owner(&self, program: &str) -> Command {
        let mut command = Command::new(self.path(program));
        if let Some(user) = &self.stand_in {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Creates a directory that belongs to the server's owner.
    pub(super) fn create_owned_directory(&self, path: &Path) -> Result<()> {
        fs::create_dir(path)?;
        if let Some(user) = &self.stand_in {
            chown(path, Some(user.uid), Some(user.gid))?;
        }
        Ok(())
    }

    /// Copies a file for the server's owner alone, as it wants its key.
    pub(super) fn give(&self, from: &Path, to: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let next = to.with_extension("next");
        fs::copy(from, &next)?;
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600))?;
        if let Some(user) = &self.stand_in {
            chown(&next, Some(user.uid), Some(user.gid))?;
        }
        fs::rename(&next, to)?;
        Ok(())
    }
}

/// Debian's newest version, otherwise the directory in `PATH` that has `initdb`.
fn programs_directory() -> Option<PathBuf> {
    let newest = fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| packages::is_program(&entry.path().join("bin/initdb")))
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .max()
        .map(|(_version, programs)| programs);
    newest.or_else(|| Some(packages::program_in_path("initdb")?.parent()?.to_owned()))
}

fn user(name: &str) -> Option<User> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let mut fields =
        accounts.lines().map(|line| line.split(':')).find(|line| line.clone().next() == Some(name))?;
    Some(User { uid: fields.nth(2)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}
