//! (to come)
use std::path::{Path, PathBuf};
use std::time::Duration;
pub struct File { pub path: PathBuf, pub bytes: Vec<u8>, pub digest: String, pub signature: Option<String> }
pub struct Watch(Vec<PathBuf>);
impl Watch {
    pub fn open(d: &Path, _: Duration, _: usize) -> Self {
        let mut v: Vec<_> = std::fs::read_dir(d).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.extension().is_some_and(|e| e == "wasm")).collect();
        v.sort(); v.reverse(); Self(v)
    }
    pub async fn next(&mut self) -> File {
        match self.0.pop() { Some(path) => { let bytes = std::fs::read(&path).unwrap_or_default(); let digest = crate::plugin::digest(&bytes); File { path, bytes, digest, signature: None } } None => std::future::pending().await }
    }
}
