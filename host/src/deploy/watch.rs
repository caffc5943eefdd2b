//! Watches the plugin directory, and yields each file once it is complete.
//!
//! A notification of the operating system only starts a scan; the scan itself finds which files have changed. So a
//! lost notification delays a file until the next rescan at most, and it does not matter whether a file was written,
//! renamed, linked or mounted.
//!
//! Scans block, so they run in a thread of their own. A file is complete when two scans in a row find the same
//! metadata and the same contents, and no process writes to it. `Directory` compares the scans; it uses no clock.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustix::fs::OFlags;
use tokio::sync::mpsc;

/// A scan starts when there was no notification for this time. Also the pause between two scans.
const QUIET: Duration = Duration::from_millis(200);
/// If notifications do not cease, a scan starts after this time.
const STORM: Duration = Duration::from_secs(2);
/// A file that is open for writing counts as complete if nothing was written to it for this time.
const STALLED: Duration = Duration::from_secs(10);
/// A signature has about 300 bytes. A longer file is cut off here, so that its signature is refused.
const MOST_SIGNATURE_BYTES: u64 = 16 * 1024;

/// A complete file of the plugin directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes, in lowercase hex.
    pub digest: String,
    /// The text of the file with the same name and `.minisig` appended, if there is one.
    pub signature: Option<String>,
}

/// Yields the `.wasm` files of a directory: each file at first, and again when its contents or its signature change.
/// Dropping it ends the thread.
pub struct Watch {
    files: mpsc::Receiver<File>,
    /// Wakes the thread.
    wake: SyncSender<()>,
}

impl Watch {
    /// Watches a directory. It is scanned after each notification, and every `rescan` without one. A directory that
    /// is missing or cannot be watched is logged once, and tried again with each rescan. A file of more than
    /// `most_bytes` is logged once, and not yielded.
    pub fn open(directory: &Path, rescan: Duration, most_bytes: usize) -> Watch {
        Self::start(directory, rescan, most_bytes, true)
    }

    fn start(directory: &Path, rescan: Duration, most_bytes: usize, is_notified: bool) -> Watch {
        let (wake, wakes) = sync_channel(1);
        // To bound the memory, one file waits here while the file before is processed.
        let (complete, files) = mpsc::channel(1);
        let scanner = DirectoryScanner {
            directory: Directory::new(directory, most_bytes),
            rescan,
            is_notified,
            wake: wake.clone(),
            wakes,
            notifications: Arc::default(),
            notifier: None,
            watch_error: None,
            problem: None,
            files: complete,
        };
        let thread = std::thread::Builder::new().name("plugins".into());
        if let Err(error) = thread.spawn(move || scanner.run()) {
            tracing::error!(directory = %directory.display(), %error, "the plugin directory is not watched: its thread cannot be started");
        }
        Watch { files, wake }
    }

    /// Waits for the next complete file. Files that one scan finds come in the order of their names. Cancel safe.
    pub async fn next(&mut self) -> File {
        match self.files.recv().await {
            Some(file) => file,
            None => {
                tracing::error!("the plugin directory is no longer watched: restart the host");
                std::future::pending().await
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.files.close();
        // The thread wakes up, finds the channel of files closed, and ends. A full channel means that it wakes up
        // anyway.
        let _ = self.wake.try_send(());
    }
}

/// The state of the thread that scans.
struct DirectoryScanner {
    directory: Directory,
    rescan: Duration,
    /// Whether to ask the operating system for notifications.
    is_notified: bool,
    wake: SyncSender<()>,
    wakes: Receiver<()>,
    notifications: Arc<Mutex<Notifications>>,
    notifier: Option<RecommendedWatcher>,
    /// Why there are no notifications.
    watch_error: Option<String>,
    /// The last problem of the directory that was logged. Absent when it is over.
    problem: Option<String>,
    files: mpsc::Sender<File>,
}

impl DirectoryScanner {
    fn run(mut self) {
        let mut next_rescan = Instant::now();
        while !self.files.is_closed() {
            let is_replaced = std::mem::take(&mut self.notifications().is_replaced);
            if is_replaced || next_rescan <= Instant::now() {
                next_rescan = Instant::now() + self.rescan;
                self.watch();
            }
            let all_unchanged = self.scan();
            if all_unchanged {
                let _ = self.wakes.recv_timeout(next_rescan.saturating_duration_since(Instant::now()));
            }
            let storm = Instant::now() + STORM;
            while self.wakes.recv_timeout(QUIET).is_ok() && Instant::now() < storm {}
        }
    }

    /// Asks for notifications again. Needed because notifications follow the directory itself, not its name: of a
    /// directory that took the place of the old one, there would be none.
    fn watch(&mut self) {
        if !self.is_notified {
            return;
        }
        self.notifier = None;
        let (notifications, wake) = (self.notifications.clone(), self.wake.clone());
        // Notifications name files by absolute paths.
        let path = &self.directory.path;
        let directory = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let watched = directory.clone();
        let opened = notify::recommended_watcher(move |event| {
            let mut notifications = notifications.lock().unwrap_or_else(PoisonError::into_inner);
            if notifications.note(event, &directory, Instant::now()) {
                // A full channel wakes the thread already.
                let _ = wake.try_send(());
            }
        })
        .and_then(|mut notifier| {
            notifier.watch(&watched, RecursiveMode::NonRecursive)?;
            Ok(notifier)
        });
        self.watch_error = match opened {
            Ok(notifier) => {
                self.notifier = Some(notifier);
                None
            }
            Err(error) => Some(format!("changes are noticed only every {:?}: {error}", self.rescan)),
        };
    }

    /// Scans all files once. `false`: another scan is needed soon, because a file is not complete yet.
    fn scan(&mut self) -> bool {
        let listed = self.directory.list();
        self.report(listed.as_ref().err().map(|error| format!("the directory cannot be read: {error}")));
        let mut all_unchanged = true;
        for path in listed.unwrap_or_default() {
            let is_written = self.notifications().is_written(&path, Instant::now());
            match self.directory.check(&path, is_written) {
                Found::Unchanged => {}
                Found::Incomplete => all_unchanged = false,
                // This fails only when the `Watch` was dropped.
                Found::Complete(file) => drop(self.files.blocking_send(file)),
            }
        }
        all_unchanged
    }

    /// Logs a problem of the directory once, and its end once.
    fn report(&mut self, unreadable: Option<String>) {
        let problem = unreadable.or_else(|| self.watch_error.clone());
        if self.problem == problem {
            return;
        }
        let directory = self.directory.path.display();
        match &problem {
            Some(reason) => tracing::warn!(
                %directory,
                reason,
                "the plugin directory has a problem: plugins that run continue, and the host tries the directory again"
            ),
            None => tracing::info!(%directory, "the plugin directory is watched again"),
        }
        self.problem = problem;
    }

    fn notifications(&self) -> std::sync::MutexGuard<'_, Notifications> {
        self.notifications.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the notifications have reported.
#[derive(Default)]
struct Notifications {
    /// The directory itself was removed or renamed. There are no notifications of the directory that has its name
    /// now.
    is_replaced: bool,
    /// Names of files that were written to and not closed since, with the time of the last write.
    writing: HashMap<OsString, Instant>,
}

impl Notifications {
    /// Notes an event. Returns whether a scan is needed.
    fn note(&mut self, event: notify::Result<Event>, directory: &Path, now: Instant) -> bool {
        // After an error, an event of any kind may be missing: scan.
        let Ok(event) = event else { return true };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            // Reads change nothing, and a scan reads files itself: without this, each scan would cause the next one.
            EventKind::Access(_) => return false,
            // Only on Linux is the close notified as well. Elsewhere a file would count as being written forever.
            EventKind::Modify(ModifyKind::Data(_)) if cfg!(target_os = "linux") => {
                self.writing.retain(|_, last| now.duration_since(*last) < STALLED);
                let names = event.paths.iter().filter_map(|path| path.file_name());
                self.writing.extend(names.map(|name| (name.to_owned(), now)));
                return true;
            }
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                self.is_replaced |= event.paths.iter().any(|path| path == directory);
            }
            _ => return true,
        }
        for name in event.paths.iter().filter_map(|path| path.file_name()) {
            self.writing.remove(name);
        }
        true
    }

    fn is_written(&self, path: &Path, now: Instant) -> bool {
        let last = path.file_name().and_then(|name| self.writing.get(name));
        last.is_some_and(|last| now.duration_since(*last) < STALLED)
    }
}

/// The files of a directory, as the scans before have found them.
struct Directory {
    path: PathBuf,
    most_bytes: usize,
    known: BTreeMap<PathBuf, KnownFile>,
}

#[derive(Default)]
struct KnownFile {
    /// The metadata of the file when it was last found complete. While it is the same, the file is not read again.
    complete: Option<Stamps>,
    /// What the scan before has found. If this scan finds the same, the file is complete.
    before: Option<(Stamps, Contents)>,
    /// What was last yielded of the file.
    yielded: Option<Contents>,
    /// The problem of the file that was logged. Absent when it is over.
    problem: Option<String>,
}

/// The digest of a file, and its signature.
type Contents = (String, Option<String>);

/// The metadata of a file, and of its signature.
type Stamps = (Stamp, Option<Stamp>);

/// The metadata that shows that a file has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    /// The path after all symbolic links.
    resolved: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    /// The time of modification (`mtime`): seconds and nanoseconds.
    modified: (i64, i64),
    /// The time of the last status change (`ctime`). It also changes when a copy keeps the old `mtime`.
    changed: (i64, i64),
}

enum Found {
    /// Nothing to do until the file changes.
    Unchanged,
    /// The file is not complete. Scan it again soon.
    Incomplete,
    /// The file is complete, and differs from what was last yielded.
    Complete(File),
}

impl Directory {
    fn new(path: &Path, most_bytes: usize) -> Directory {
        Directory { path: path.to_owned(), most_bytes, known: BTreeMap::new() }
    }

    /// The paths that may be components, in the order of their names.
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_bytes().ends_with(b".wasm") && !name.as_bytes().starts_with(b".") {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// Checks a file that was listed. `is_written`: a process has it open and writes to it.
    fn check(&mut self, path: &Path, is_written: bool) -> Found {
        let known = self.known.entry(path.to_owned()).or_default();
        let before = known.before.take();
        let (problem, found) = match known.check(before, path, is_written, self.most_bytes) {
            Ok(found) => (None, found),
            Err(problem) => (problem, Found::Unchanged),
        };
        if let Some(reason) = &problem
            && known.problem.is_none()
        {
            tracing::error!(file = %path.display(), reason, "plugin refused");
        }
        known.problem = problem;
        found
    }
}

impl KnownFile {
    /// The error is the problem to log; `None`: the file does not exist any more.
    fn check(
        &mut self,
        before: Option<(Stamps, Contents)>,
        path: &Path,
        is_written: bool,
        most: usize,
    ) -> Result<Found, Option<String>> {
        let unreadable = |error: io::Error| {
            (error.kind() != ErrorKind::NotFound).then(|| format!("the file cannot be read: {error}"))
        };
        let signature_path = {
            let mut name = path.as_os_str().to_owned();
            name.push(".minisig");
            PathBuf::from(name)
        };
        // A directory or a pipe is no component, and an empty file may become one: wait for the next change.
        let Some(stamp) = stamp(path).map_err(unreadable)?.filter(|stamp| stamp.bytes > 0) else {
            return Ok(Found::Unchanged);
        };
        let signed = stamp_if_there(&signature_path).map_err(unreadable)?;
        let bytes = stamp.bytes;
        let stamps = (stamp, signed);
        if bytes > most as u64 {
            return Err(Some(format!("the file has {bytes} bytes, and {most} are the most")));
        }
        if self.complete.as_ref() == Some(&stamps) {
            return Ok(Found::Unchanged);
        }
        if is_written {
            return Ok(Found::Incomplete);
        }
        let Some(contents) = read(path, &stamps.0, bytes).map_err(unreadable)? else {
            return Ok(Found::Incomplete);
        };
        let signature = match &stamps.1 {
            Some(stamp) => match read(&signature_path, stamp, MOST_SIGNATURE_BYTES).map_err(unreadable)? {
                Some(signature) => Some(signature),
                None => return Ok(Found::Incomplete),
            },
            None => None,
        };
        let signature = signature.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let digest = projector_sandbox::digest(&contents);
        let now = (stamps, (digest, signature));
        if before.as_ref() != Some(&now) || contents.len() as u64 != bytes {
            self.before = Some(now);
            return Ok(Found::Incomplete);
        }
        let (stamps, found) = now;
        self.complete = Some(stamps);
        if self.yielded.as_ref() == Some(&found) {
            return Ok(Found::Unchanged);
        }
        let (digest, signature) = found.clone();
        self.yielded = Some(found);
        Ok(Found::Complete(File { path: path.to_owned(), bytes: contents, digest, signature }))
    }
}

/// The metadata of a file. `None`: the path is not a file.
fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    let resolved = path.canonicalize()?;
    let of_file = |metadata: &Metadata| Stamp {
        resolved,
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    };
    let metadata = path.metadata()?;
    Ok(metadata.is_file().then(|| of_file(&metadata)))
}

fn stamp_if_there(path: &Path) -> io::Result<Option<Stamp>> {
    match stamp(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        stamped => stamped,
    }
}

/// Reads at most `most` bytes of a file whose metadata was read before. `None`: another file has taken its place
/// since.
///
/// This other file may be a pipe without a writer, and to open it would block forever. So the open does not block,
/// and the opened file is compared with the metadata.
fn read(path: &Path, expected: &Stamp, most: u64) -> io::Result<Option<Vec<u8>>> {
    let non_blocking = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = fs::File::options().read(true).custom_flags(non_blocking).open(path)?;
    let opened = file.metadata()?;
    if !opened.is_file() || (opened.dev(), opened.ino()) != (expected.device, expected.inode) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(most.min(expected.bytes)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
