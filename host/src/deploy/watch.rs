//! The plugin directory, as a stream of whole files.
//!
//! A notification only says that it is time to look; what there is, is what looking finds. So a lost one
//! costs no more than the time to the next rescan, and it is all the same how a file came to be there:
//! written, renamed, linked, or mounted.
//!
//! All of it runs in a thread of its own, since it blocks. `Directory` is what it knows of the files, and
//! has no notion of time.

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

/// So long nothing may have happened before the files are looked at, and between two looks.
const QUIET: Duration = Duration::from_millis(200);
/// After so long they are looked at although it is not quiet.
const STORM: Duration = Duration::from_secs(2);
/// A file that is open for writing, and that nobody has written to for so long, is taken as it is.
const STALLED: Duration = Duration::from_secs(10);
/// A signature has some 300 bytes; what is longer is cut, and fits nothing then.
const MOST_SIGNATURE_BYTES: u64 = 16 * 1024;

/// A file as it stood whole in the plugin directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes, in lowercase hex.
    pub digest: String,
    /// What the file of its name with `.minisig` holds, if there is one.
    pub signature: Option<String>,
}

/// The `.wasm` files of a directory, each whenever its contents or its signature are others.
pub struct Watch {
    files: mpsc::Receiver<File>,
    bell: SyncSender<()>,
}

impl Watch {
    /// Watches a directory, and looks at it every `rescan` whatever was notified. One that is not there,
    /// or cannot be watched, is told once in the log, and tried again with every rescan. Files of more
    /// than `most_bytes` are told once, and left alone.
    pub fn open(directory: &Path, rescan: Duration, most_bytes: usize) -> Watch {
        Self::start(directory, rescan, most_bytes, true)
    }

    fn start(directory: &Path, rescan: Duration, most_bytes: usize, is_notified: bool) -> Watch {
        let (bell, rings) = sync_channel(1);
        // The next one is read while the last one is dealt with, and no more.
        let (whole, files) = mpsc::channel(1);
        let looker = DirectoryScanner {
            directory: Directory::new(directory, most_bytes),
            rescan,
            is_notified,
            bell: bell.clone(),
            rings,
            heard: Arc::default(),
            notifier: None,
            unwatched: None,
            trouble: None,
            files: whole,
        };
        let thread = std::thread::Builder::new().name("plugins".into());
        if let Err(error) = thread.spawn(move || looker.run()) {
            tracing::error!(directory = %directory.display(), %error, "the plugin directory is not looked at: no thread for it");
        }
        Watch { files, bell }
    }

    /// The next whole file: of those found together, by name. It waits for as long as there is none.
    /// Cancel safe.
    pub async fn next(&mut self) -> File {
        match self.files.recv().await {
            Some(file) => file,
            None => {
                tracing::error!("the plugin directory is not looked at any more: start the host again");
                std::future::pending().await
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.files.close();
        // The thread wakes up and finds nobody who would want a file. It is awake if the bell rings already.
        let _ = self.bell.try_send(());
    }
}

/// The thread that looks.
struct DirectoryScanner {
    directory: Directory,
    rescan: Duration,
    is_notified: bool,
    bell: SyncSender<()>,
    rings: Receiver<()>,
    heard: Arc<Mutex<Notifications>>,
    notifier: Option<RecommendedWatcher>,
    /// Why there are no notifications.
    unwatched: Option<String>,
    /// What was told of the directory.
    trouble: Option<String>,
    files: mpsc::Sender<File>,
}

impl DirectoryScanner {
    fn run(mut self) {
        let mut next_rescan = Instant::now();
        while !self.files.is_closed() {
            let is_lost = std::mem::take(&mut self.heard().is_lost);
            if is_lost || next_rescan <= Instant::now() {
                next_rescan = Instant::now() + self.rescan;
                self.watch();
            }
            let all_settled = self.look();
            if all_settled {
                let _ = self.rings.recv_timeout(next_rescan.saturating_duration_since(Instant::now()));
            }
            let storm = Instant::now() + STORM;
            while self.rings.recv_timeout(QUIET).is_ok() && Instant::now() < storm {}
        }
    }

    /// Asks for notifications anew: a directory that was replaced has the same name and is another.
    fn watch(&mut self) {
        if !self.is_notified {
            return;
        }
        self.notifier = None;
        let (heard, bell) = (self.heard.clone(), self.bell.clone());
        // Else events would name it otherwise.
        let path = &self.directory.path;
        let directory = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let watched = directory.clone();
        let opened = notify::recommended_watcher(move |event| {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            if heard.note(event, &directory, Instant::now()) {
                // One that rings already is enough.
                let _ = bell.try_send(());
            }
        })
        .and_then(|mut notifier| {
            notifier.watch(&watched, RecursiveMode::NonRecursive)?;
            Ok(notifier)
        });
        self.unwatched = match opened {
            Ok(notifier) => {
                self.notifier = Some(notifier);
                None
            }
            Err(error) => Some(format!("changes are seen every {:?} only: {error}", self.rescan)),
        };
    }

    /// Looks at all files once. Returns whether there is nothing to look at again soon.
    fn look(&mut self) -> bool {
        let listed = self.directory.list();
        self.tell(listed.as_ref().err().map(|error| format!("it cannot be read: {error}")));
        let mut all_settled = true;
        for path in listed.unwrap_or_default() {
            let is_written = self.heard().is_written(&path, Instant::now());
            match self.directory.look(&path, is_written) {
                Found::Settled => {}
                Found::Unsettled => all_settled = false,
                // Nobody wants it if that fails.
                Found::Whole(file) => drop(self.files.blocking_send(file)),
            }
        }
        all_settled
    }

    /// Tells once what is wrong with the directory, and once that nothing is any more.
    fn tell(&mut self, unreadable: Option<String>) {
        let trouble = unreadable.or_else(|| self.unwatched.clone());
        if self.trouble == trouble {
            return;
        }
        let directory = self.directory.path.display();
        match &trouble {
            Some(reason) => tracing::warn!(
                %directory,
                reason,
                "the plugin directory is in trouble: what runs goes on, and it is looked for again"
            ),
            None => tracing::info!(%directory, "the plugin directory is watched again"),
        }
        self.trouble = trouble;
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Notifications> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What notifications said.
#[derive(Default)]
struct Notifications {
    /// The directory itself was removed or renamed: nothing more will be heard of whatever has its name.
    is_lost: bool,
    /// Names of files that were written to and not closed since, and when they were written to last.
    writing: HashMap<OsString, Instant>,
}

impl Notifications {
    /// Notes an event. Returns whether it is a reason to look.
    fn note(&mut self, event: notify::Result<Event>, directory: &Path, now: Instant) -> bool {
        // What was not understood may have been anything.
        let Ok(event) = event else { return true };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            // Our own looks among them.
            EventKind::Access(_) => return false,
            // Only where closing is notified as well.
            EventKind::Modify(ModifyKind::Data(_)) if cfg!(target_os = "linux") => {
                self.writing.retain(|_, last| now.duration_since(*last) < STALLED);
                let names = event.paths.iter().filter_map(|path| path.file_name());
                self.writing.extend(names.map(|name| (name.to_owned(), now)));
                return true;
            }
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                self.is_lost |= event.paths.iter().any(|path| path == directory);
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

/// What is known of a directory's files.
struct Directory {
    path: PathBuf,
    most_bytes: usize,
    known: BTreeMap<PathBuf, Known>,
}

#[derive(Default)]
struct Known {
    /// The file as it needs no further look.
    settled: Option<Stamps>,
    /// What the look before found. If the next one finds the same, the file is whole.
    before: Option<(Stamps, Contents)>,
    /// What was yielded of it last.
    yielded: Option<Contents>,
    /// What was told of it.
    trouble: Option<String>,
}

/// A digest and a signature.
type Contents = (String, Option<String>);

/// A file and its signature.
type Stamps = (Stamp, Option<Stamp>);

/// What is another when a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    /// Where links lead to.
    resolved: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// It moves on also where a copy takes over the time of modification.
    changed: (i64, i64),
}

enum Found {
    /// It needs no further look until it changes.
    Settled,
    /// It needs another look soon.
    Unsettled,
    /// It is whole, and not what was yielded last.
    Whole(File),
}

impl Directory {
    fn new(path: &Path, most_bytes: usize) -> Directory {
        Directory { path: path.to_owned(), most_bytes, known: BTreeMap::new() }
    }

    /// What may be components, by name.
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

    /// Looks at a file that was listed; `is_written`: somebody has it open and writes.
    fn look(&mut self, path: &Path, is_written: bool) -> Found {
        let known = self.known.entry(path.to_owned()).or_default();
        let before = known.before.take();
        let (trouble, found) = match known.look(before, path, is_written, self.most_bytes) {
            Ok(found) => (None, found),
            Err(trouble) => (trouble, Found::Settled),
        };
        if let Some(reason) = &trouble
            && known.trouble.is_none()
        {
            tracing::error!(file = %path.display(), reason, "plugin refused");
        }
        known.trouble = trouble;
        found
    }
}

impl Known {
    /// The error is what there is to tell; nothing, if the file is gone.
    fn look(
        &mut self,
        before: Option<(Stamps, Contents)>,
        path: &Path,
        is_written: bool,
        most: usize,
    ) -> Result<Found, Option<String>> {
        let unreadable = |error: io::Error| {
            (error.kind() != ErrorKind::NotFound).then(|| format!("it cannot be read: {error}"))
        };
        let signature_path = {
            let mut name = path.as_os_str().to_owned();
            name.push(".minisig");
            PathBuf::from(name)
        };
        // What is not a file, or is empty, is nobody's component; not yet.
        let Some(stamp) = stamp(path).map_err(unreadable)?.filter(|stamp| stamp.bytes > 0) else {
            return Ok(Found::Settled);
        };
        let signed = stamp_if_there(&signature_path).map_err(unreadable)?;
        let bytes = stamp.bytes;
        let stamps = (stamp, signed);
        if bytes > most as u64 {
            return Err(Some(format!("it has {bytes} bytes, and {most} are the most")));
        }
        if self.settled.as_ref() == Some(&stamps) {
            return Ok(Found::Settled);
        }
        if is_written {
            return Ok(Found::Unsettled);
        }
        let Some(contents) = read(path, &stamps.0, bytes).map_err(unreadable)? else {
            return Ok(Found::Unsettled);
        };
        let signature = match &stamps.1 {
            Some(stamp) => match read(&signature_path, stamp, MOST_SIGNATURE_BYTES).map_err(unreadable)? {
                Some(signature) => Some(signature),
                None => return Ok(Found::Unsettled),
            },
            None => None,
        };
        let signature = signature.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let digest = projector_sandbox::digest(&contents);
        let now = (stamps, (digest, signature));
        if before.as_ref() != Some(&now) || contents.len() as u64 != bytes {
            self.before = Some(now);
            return Ok(Found::Unsettled);
        }
        let (stamps, found) = now;
        self.settled = Some(stamps);
        if self.yielded.as_ref() == Some(&found) {
            return Ok(Found::Settled);
        }
        let (digest, signature) = found.clone();
        self.yielded = Some(found);
        Ok(Found::Whole(File { path: path.to_owned(), bytes: contents, digest, signature }))
    }
}

/// None for what is not a file.
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

/// The bytes of a file that was looked at, or as many of them; `None`: something else has taken its place.
///
/// That may be a pipe that nobody writes to, so the file is opened without waiting, and what was opened is held
/// against what was looked at.
fn read(path: &Path, looked_at: &Stamp, most: u64) -> io::Result<Option<Vec<u8>>> {
    let without_waiting = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = fs::File::options().read(true).custom_flags(without_waiting).open(path)?;
    let opened = file.metadata()?;
    if !opened.is_file() || (opened.dev(), opened.ino()) != (looked_at.device, looked_at.inode) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(most.min(looked_at.bytes)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
