//! The program of the version before, and the guests of its time.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// What `cargo xtask upgrade` built of an earlier commit.
pub(crate) struct Before {
    directory: PathBuf,
}

impl Before {
    /// Without it a test can prove nothing, so it fails.
    #[track_caller]
    pub(crate) fn locate() -> Before {
        let directory = env::var_os("PROJECTOR_BEFORE").unwrap_or_else(|| {
            panic!("PROJECTOR_BEFORE names no directory with the program of the version before: `cargo xtask upgrade` builds that program and runs this test")
        });
        Before { directory: directory.into() }
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.directory.join("projector")
    }

    /// The bytes of a guest.
    pub(crate) fn guest(&self, name: &str) -> Vec<u8> {
        let component = self.directory.join("guests").join(format!("{name}.wasm"));
        fs::read(&component).unwrap_or_else(|error| panic!("{}: {error}", component.display()))
    }

    /// Replaces guests in a plugin directory by those of the version before.
    pub(crate) fn install(&self, names: &[&str], plugins: &Path) {
        for name in names {
            fs::write(plugins.join(format!("{name}.wasm")), self.guest(name)).unwrap();
        }
    }
}
