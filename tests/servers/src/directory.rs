//! A server's own directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

const OWNER_LOCK: &str = "owner.lock";

/// A directory for data, settings and log, removed when dropped. One whose process ended without
/// dropping it is removed when the next one is created, by whatever process does.
pub(crate) struct ServerDirectory {
    path: PathBuf,
    /// Held while the owner lives; a directory whose lock can be taken is nobody's.
    _owner: File,
}

impl ServerDirectory {
    /// Below the system's temporary directory: short enough for a socket's path, and open to the
    /// unprivileged user that Postgres runs as, which a checkout below `/root` is not.
    pub(crate) fn create(server: &str) -> Result<ServerDirectory> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let user = rustix::process::getuid().as_raw();
        let base = std::env::temp_dir().join(format!("projector-test-servers-{user}"));
        let create = || -> io::Result<ServerDirectory> {
            fs::create_dir_all(&base)?;
            let doorkeeper = File::create(base.join("lock"))?;
            doorkeeper.lock()?;
            remove_abandoned(&base)?;
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("{server}-{}-{number}", process::id()));
            fs::create_dir(&path)?;
            let owner = File::create(path.join(OWNER_LOCK))?;
            owner.lock()?;
            Ok(ServerDirectory { path, _owner: owner })
        };
        create().with_context(|| format!("cannot make a directory for {server} in {}", base.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ServerDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn remove_abandoned(base: &Path) -> io::Result<()> {
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        let abandoned = match File::open(path.join(OWNER_LOCK)) {
            Ok(owner) => owner.try_lock().is_ok(),
            Err(_) => path.is_dir(),
        };
        if abandoned {
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}
