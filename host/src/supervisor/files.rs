//! Which file of the plugin directory owns which projection.
//!
//! Two files with components of one projection would replace each other without end. So the first file whose component a
//! store accepts owns the projection, as long as the file exists and has a component of that projection. A file whose
//! component is refused owns nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

#[derive(Default)]
pub(super) struct Files {
    known: Mutex<HashMap<PathBuf, Holder>>,
    /// A lock for each projection, so that files of one projection are offered one after the other.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

struct Holder {
    name: String,
    /// Whether a store accepted a component of this file and name.
    accepted: bool,
}

impl Files {
    /// Records that a file has a component of this projection. Then waits until no other file of the projection is being
    /// offered. No other file is offered while the returned guard exists.
    pub(super) async fn turn(&self, path: &Path, name: &str) -> OwnedMutexGuard<()> {
        self.hold(path, name);
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.entry(name.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }

    fn hold(&self, path: &Path, name: &str) {
        let mut known = self.known();
        if known.get(path).is_none_or(|holder| holder.name != name) {
            known.insert(path.to_owned(), Holder { name: name.to_owned(), accepted: false });
        }
    }

    /// The file that owns the projection, if it is another file than `path`.
    pub(super) fn other_owner(&self, path: &Path, name: &str) -> Option<PathBuf> {
        let known = self.known();
        let mut owners = known.iter().filter(|(_, holder)| holder.accepted && holder.name == name);
        let owner = owners.find(|(owner, _)| *owner != path && owner.exists());
        owner.map(|(owner, _)| owner.clone())
    }

    /// Records that a store accepted the file's component.
    pub(super) fn accept(&self, path: &Path, name: &str) {
        if let Some(holder) = self.known().get_mut(path).filter(|holder| holder.name == name) {
            holder.accepted = true;
        }
    }

    /// Records that the file's component was refused: the file owns nothing.
    pub(super) fn refuse(&self, path: &Path) {
        self.known().remove(path);
    }

    /// The projections of all files.
    pub(super) fn projections(&self) -> Vec<String> {
        self.known().values().map(|holder| holder.name.clone()).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, Holder>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_accepted_file_owns_the_projection_as_long_as_it_has_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let [first, second] = ["0.wasm", "1.wasm"].map(|name| directory.path().join(name));
        for path in [&first, &second] {
            std::fs::write(path, "").expect("written");
        }
        let files = Files::default();
        let owner_beside = |path: &Path| files.other_owner(path, "orders");

        drop(files.turn(&first, "orders").await);
        assert_eq!(owner_beside(&second), None, "no store accepted it");
        files.accept(&first, "orders");
        assert_eq!(owner_beside(&second), Some(first.clone()));
        assert_eq!(owner_beside(&first), None);
        // A later version in the same file, which is refused.
        drop(files.turn(&first, "orders").await);
        assert_eq!(owner_beside(&second), Some(first.clone()));
        files.refuse(&first);
        assert_eq!(owner_beside(&second), None);

        drop(files.turn(&first, "orders").await);
        files.accept(&first, "orders");
        drop(files.turn(&first, "sales").await);
        assert_eq!(owner_beside(&second), None, "it holds another projection");
        files.accept(&first, "orders");
        assert_eq!(owner_beside(&second), None, "the accepted component is not in the file any more");

        drop(files.turn(&second, "orders").await);
        files.accept(&second, "orders");
        assert_eq!(owner_beside(&first), Some(second.clone()));
        std::fs::remove_file(&second).expect("removed");
        assert_eq!(owner_beside(&first), None, "the file was removed");
    }
}
