//! A plugin directory of a test's own: guests, and whatever else it puts there.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::guests;

pub(crate) struct Plugins {
    directory: TempDir,
}

impl Plugins {
    pub(crate) fn new(guests: &[&str]) -> Plugins {
        let directory = TempDir::with_prefix("projector-plugins-").unwrap();
        guests::install(guests, directory.path());
        Plugins { directory }
    }

    pub(crate) fn add(self, file: &str, bytes: impl AsRef<[u8]>) -> Plugins {
        fs::write(self.directory.path().join(file), bytes).unwrap();
        self
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// As the configuration has it.
    pub(crate) fn path(&self) -> String {
        self.directory.path().display().to_string()
    }
}
