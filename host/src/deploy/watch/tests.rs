//! Fault 29: half-written files, swapped links, lost notifications, storms of notifications.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const MOST: usize = 1024 * 1024;
/// No rescan happens while a test runs, so each file is found by a notification.
const NEVER: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_millis(50);

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

async fn next(watch: &mut Watch) -> (String, String) {
    let file = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("a file in time");
    assert_eq!(file.digest, projector_sandbox::digest(&file.bytes));
    let name = file.path.file_name().expect("a name").to_string_lossy().into_owned();
    (name, String::from_utf8(file.bytes).expect("text"))
}

fn file(name: &str, contents: &str) -> (String, String) {
    (name.to_owned(), contents.to_owned())
}

/// Writes a file as a careful tool does: under another name, and renamed when it is complete.
fn put(directory: &Path, name: &str, contents: &str) {
    let new = directory.join(format!(".{name}.new"));
    fs::write(&new, contents).expect("written");
    fs::rename(new, directory.join(name)).expect("renamed");
}

/// Asserts that no file of before is yielded any more: the next file is one that is written now, and is the last one
/// by its name. Any other file would come before it.
async fn nothing_more(watch: &mut Watch, directory: &Path) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let contents = format!("the last one of {}", NEXT.fetch_add(1, Ordering::Relaxed));
    put(directory, "zzz.wasm", &contents);
    assert_eq!(next(watch).await, file("zzz.wasm", &contents));
    fs::remove_file(directory.join("zzz.wasm")).expect("removed");
}

#[tokio::test]
async fn files_that_exist_are_yielded_once_in_the_order_of_their_names() {
    let plugins = directory();
    for name in ["b.wasm", "a.wasm", "c.txt", "c.wasm.minisig"] {
        put(plugins.path(), name, name);
    }
    fs::create_dir(plugins.path().join("d.wasm")).expect("a directory");
    let mut watch = Watch::open(plugins.path(), NEVER, MOST);
    assert_eq!(next(&mut watch).await, file("a.wasm", "a.wasm"));
    assert_eq!(next(&mut watch).await, file("b.wasm", "b.wasm"));
    nothing_more(&mut watch, plugins.path()).await;
}

#[tokio::test]
async fn a_slow_write_is_yielded_once_it_is_complete() {
    let plugins = directory();
    let mut watch = Watch::open(plugins.path(), NEVER, MOST);
    nothing_more(&mut watch, plugins.path()).await;
    let mut slow = fs::File::create(plugins.path().join("a.wasm")).expect("created");
    slow.write_all(b"one half, ").expect("written");
    // The half that is written is not yielded, although another file is.
    put(plugins.path(), "z.wasm", "meanwhile");
    assert_eq!(next(&mut watch).await, file("z.wasm", "meanwhile"));
    slow.write_all(b"and the other").expect("written");
    drop(slow);
    assert_eq!(next(&mut watch).await, file("a.wasm", "one half, and the other"));
}

#[tokio::test]
async fn a_file_that_replaces_another_is_yielded_if_it_differs() {
    let plugins = directory();
    put(plugins.path(), "a.wasm", "one");
    let mut watch = Watch::open(plugins.path(), NEVER, MOST);
    assert_eq!(next(&mut watch).await, file("a.wasm", "one"));
    put(plugins.path(), "a.wasm", "two");
    assert_eq!(next(&mut watch).await, file("a.wasm", "two"));
    put(plugins.path(), "a.wasm", "one");
    assert_eq!(next(&mut watch).await, file("a.wasm", "one"));
    put(plugins.path(), "a.wasm", "one");
    nothing_more(&mut watch, plugins.path()).await;
}

/// Replaces a file as a kubelet does when a ConfigMap changes.
fn publish(directory: &Path, version: &str, contents: &str) {
    let dated = format!("..{version}");
    fs::create_dir(directory.join(&dated)).expect("a directory");
    fs::write(directory.join(&dated).join("a.wasm"), contents).expect("written");
    symlink(&dated, directory.join("..data_tmp")).expect("linked");
    let before = fs::read_link(directory.join("..data"));
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).expect("renamed");
    if let Ok(before) = before {
        fs::remove_dir_all(directory.join(before)).expect("removed");
    }
}

#[tokio::test]
async fn a_file_of_a_changed_config_map_is_yielded() {
    let plugins = directory();
    publish(plugins.path(), "2026_01_01", "one");
    symlink("..data/a.wasm", plugins.path().join("a.wasm")).expect("linked");
    let mut watch = Watch::open(plugins.path(), NEVER, MOST);
    assert_eq!(next(&mut watch).await, file("a.wasm", "one"));
    publish(plugins.path(), "2026_01_02", "two");
    assert_eq!(next(&mut watch).await, file("a.wasm", "two"));
    publish(plugins.path(), "2026_01_03", "two");
    nothing_more(&mut watch, plugins.path()).await;
}

fn ln_sfn(target: &Path, link: &Path) {
    let done = Command::new("ln").arg("-sfn").arg(target).arg(link).status().expect("ln");
    assert!(done.success());
}

#[tokio::test]
async fn a_link_to_another_file_is_yielded() {
    let (plugins, releases) = (directory(), directory());
    put(releases.path(), "1.wasm", "one");
    put(releases.path(), "2.wasm", "two");
    ln_sfn(&releases.path().join("1.wasm"), &plugins.path().join("a.wasm"));
    let mut watch = Watch::open(plugins.path(), NEVER, MOST);
    assert_eq!(next(&mut watch).await, file("a.wasm", "one"));
    ln_sfn(&releases.path().join("2.wasm"), &plugins.path().join("a.wasm"));
    assert_eq!(next(&mut watch).await, file("a.wasm", "two"));
    ln_sfn(&releases.path().join("nowhere.wasm"), &plugins.path().join("a.wasm"));
    nothing_more(&mut watch, plugins.path()).await;
}

#[tokio::test]
async fn the_directory_may_be_a_link_that_changes() {
    let root = directory();
    for release in ["one", "two"] {
        fs::create_dir(root.path().join(release)).expect("a directory");
        put(&root.path().join(release), "a.wasm", release);
    }
    let plugins = root.path().join("plugins");
    ln_sfn(Path::new("one"), &plugins);
    let mut watch = Watch::open(&plugins, OFTEN, MOST);
    assert_eq!(next(&mut watch).await, file("a.wasm", "one"));
    ln_sfn(Path::new("two"), &plugins);
    assert_eq!(next(&mut watch).await, file("a.wasm", "two"));
}

#[tokio::test]
async fn a_directory_that_took_the_place_of_another_is_watched() {
    let root = directory();
    let (plugins, other) = (root.path().join("plugins"), root.path().join("other"));
    for (directory, contents) in [(&plugins, "one"), (&other, "two")] {
        fs::create_dir(directory).expect("a directory");
        put(directory, "a.wasm", contents);
    }
    let mut watch = Watch::open(&plugins, NEVER, MOST);
    assert_eq!(next(&mut watch).await, file("a.wasm", "one"));
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, &plugins, rustix::fs::CWD, &other, exchange)
        .expect("exchanged");
    assert_eq!(next(&mut watch).await, file("a.wasm", "two"));
    put(&plugins, "a.wasm", "three");
    assert_eq!(next(&mut watch).await, file("a.wasm", "three"));
}

#[tokio::test]
async fn a_changed_time_of_modification_yields_nothing() {
    let plugins = directory();
    put(plugins.path(), "a.wasm", "one");
    let mut watch = Watch::open(plugins.path(), NEVER, MOST);
    assert_eq!(next(&mut watch).await, file("a.wasm", "one"));
    let touched = fs::File::options().append(true).open(plugins.path().join("a.wasm")).expect("opened");
    for second in 0..1_000 {
        let time = std::time::UNIX_EPOCH + Duration::from_secs(second);
        touched.set_modified(time).expect("touched");
    }
    nothing_more(&mut watch, plugins.path()).await;
}

#[tokio::test]
async fn a_storm_of_writes_yields_one_file() {
    let plugins = directory();
    let mut watch = Watch::open(plugins.path(), NEVER, MOST);
    nothing_more(&mut watch, plugins.path()).await;
    let contents = "x".repeat(MOST / 16);
    for _ in 0..1_000 {
        fs::write(plugins.path().join("a.wasm"), &contents).expect("written");
    }
    assert_eq!(next(&mut watch).await, file("a.wasm", &contents));
    nothing_more(&mut watch, plugins.path()).await;
}

#[tokio::test]
async fn temporary_files_of_editors_are_not_yielded() {
    let plugins = directory();
    put(plugins.path(), "a.wasm", "one");
    let mut watch = Watch::open(plugins.path(), NEVER, MOST);
    assert_eq!(next(&mut watch).await, file("a.wasm", "one"));
    for name in [".a.wasm.swp", ".a.wasm", "4913", "a.wasm~", "a.wasm.tmp", "#a.wasm#"] {
        fs::write(plugins.path().join(name), name).expect("written");
    }
    nothing_more(&mut watch, plugins.path()).await;
    // As vim saves: the old file is moved out of the way.
    fs::rename(plugins.path().join("a.wasm"), plugins.path().join("a.wasm~")).expect("renamed");
    fs::write(plugins.path().join("a.wasm"), "two").expect("written");
    fs::remove_file(plugins.path().join("a.wasm~")).expect("removed");
    assert_eq!(next(&mut watch).await, file("a.wasm", "two"));
}

#[tokio::test]
async fn a_rescan_finds_a_file_without_a_notification() {
    let plugins = directory();
    put(plugins.path(), "a.wasm", "one");
    let mut watch = Watch::start(plugins.path(), OFTEN, MOST, false);
    assert_eq!(next(&mut watch).await, file("a.wasm", "one"));
    put(plugins.path(), "a.wasm", "two");
    assert_eq!(next(&mut watch).await, file("a.wasm", "two"));
    nothing_more(&mut watch, plugins.path()).await;
}

#[tokio::test]
async fn a_directory_may_be_removed_and_created_again() {
    let root = directory();
    let plugins = root.path().join("plugins");
    let mut watch = Watch::open(&plugins, OFTEN, MOST);
    fs::create_dir(&plugins).expect("a directory");
    put(&plugins, "a.wasm", "one");
    assert_eq!(next(&mut watch).await, file("a.wasm", "one"));
    for contents in ["two", "three"] {
        fs::remove_dir_all(&plugins).expect("removed");
        fs::create_dir(&plugins).expect("a directory");
        put(&plugins, "a.wasm", contents);
        assert_eq!(next(&mut watch).await, file("a.wasm", contents));
    }
    // As if another volume were mounted over the directory, and unmounted.
    fs::rename(&plugins, root.path().join("away")).expect("renamed");
    fs::create_dir(&plugins).expect("a directory");
    put(&plugins, "b.wasm", "four");
    assert_eq!(next(&mut watch).await, file("b.wasm", "four"));
    fs::remove_dir_all(&plugins).expect("removed");
    fs::rename(root.path().join("away"), &plugins).expect("renamed");
    nothing_more(&mut watch, &plugins).await;
}

#[tokio::test]
async fn a_signature_that_changed_yields_the_file_again() {
    let plugins = directory();
    put(plugins.path(), "a.wasm", "one");
    let mut watch = Watch::open(plugins.path(), NEVER, MOST);
    assert_eq!(watch.next().await.signature, None);
    for signature in ["by checkout", "by sales"] {
        put(plugins.path(), "a.wasm.minisig", signature);
        assert_eq!(watch.next().await.signature.as_deref(), Some(signature));
    }
    put(plugins.path(), "a.wasm.minisig", "by sales");
    nothing_more(&mut watch, plugins.path()).await;
    fs::remove_file(plugins.path().join("a.wasm.minisig")).expect("removed");
    assert_eq!(watch.next().await.signature, None);
}

#[tokio::test]
async fn a_cancelled_wait_loses_no_file() {
    let plugins = directory();
    let mut watch = Watch::open(plugins.path(), NEVER, MOST);
    put(plugins.path(), "a.wasm", "one");
    put(plugins.path(), "b.wasm", "two");
    let mut found = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while found.len() < 2 && Instant::now() < deadline {
        if let Ok(file) = tokio::time::timeout(Duration::from_millis(1), watch.next()).await {
            found.push(file.bytes);
        }
    }
    assert_eq!(found, [b"one", b"two"]);
}

#[test]
fn a_thread_ends_with_its_watch() {
    let plugins = directory();
    let watch = Watch::open(plugins.path(), NEVER, MOST);
    let files = watch.files.sender_strong_count();
    assert_eq!(files, 1);
    let (wake, began) = (watch.wake.clone(), Instant::now());
    drop(watch);
    // When the thread has ended, the channel is disconnected.
    while wake.try_send(()) != Err(std::sync::mpsc::TrySendError::Disconnected(())) {
        assert!(began.elapsed() < Duration::from_secs(30), "the thread still runs");
        std::thread::yield_now();
    }
}

/// Checks the only file of the directory.
fn check(directory: &mut Directory, is_written: bool) -> Result<String, &'static str> {
    let paths = directory.list().expect("listed");
    let [path] = paths.as_slice() else { panic!("{paths:?}") };
    match directory.check(path, is_written) {
        Found::Unchanged => Err("unchanged"),
        Found::Incomplete => Err("incomplete"),
        Found::Complete(file) => Ok(String::from_utf8(file.bytes).expect("text")),
    }
}

#[test]
fn a_file_is_complete_when_two_scans_find_the_same() {
    let plugins = directory();
    let path = plugins.path().join("a.wasm");
    let mut directory = Directory::new(plugins.path(), MOST);
    let mut slow = fs::File::create(&path).expect("created");
    assert_eq!(check(&mut directory, false), Err("unchanged"), "nothing was written yet");
    for _ in 0..3 {
        slow.write_all(b"x").expect("written");
        assert_eq!(check(&mut directory, false), Err("incomplete"));
    }
    assert_eq!(check(&mut directory, true), Err("incomplete"), "a process writes");
    assert_eq!(check(&mut directory, false), Err("incomplete"), "a process wrote");
    assert_eq!(check(&mut directory, false), Ok("xxx".into()));
    assert_eq!(check(&mut directory, false), Err("unchanged"));
    // Written in place, and with the old time of modification.
    let modified = path.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    fs::write(&path, "yyy").expect("written");
    slow.set_modified(modified).expect("touched");
    assert_eq!(check(&mut directory, false), Err("incomplete"));
    assert_eq!(check(&mut directory, false), Ok("yyy".into()));
}

#[test]
fn a_removed_file_yields_nothing_and_may_come_back() {
    let plugins = directory();
    let path = plugins.path().join("a.wasm");
    let mut directory = Directory::new(plugins.path(), MOST);
    put(plugins.path(), "a.wasm", "one");
    assert_eq!(check(&mut directory, false), Err("incomplete"));
    assert_eq!(check(&mut directory, false), Ok("one".into()));
    fs::remove_file(&path).expect("removed");
    assert!(directory.list().expect("listed").is_empty());
    assert!(matches!(directory.check(&path, false), Found::Unchanged));
    put(plugins.path(), "a.wasm", "one");
    assert_eq!(check(&mut directory, false), Err("incomplete"));
    assert_eq!(check(&mut directory, false), Err("unchanged"));
}

#[test]
fn a_pipe_does_not_block_a_scan() {
    let plugins = directory();
    let made = Command::new("mkfifo").arg(plugins.path().join("a.wasm")).status().expect("mkfifo");
    assert!(made.success());
    assert_eq!(check(&mut Directory::new(plugins.path(), MOST), false), Err("unchanged"));
}

/// Another file may take a file's place between the read of its metadata and its opening.
#[test]
fn a_pipe_that_takes_a_files_place_does_not_block_a_scan() {
    let root = directory();
    let [file, signature, pipe] = ["a.wasm", "a.wasm.minisig", "pipe"].map(|name| root.path().join(name));
    for path in [&file, &signature] {
        put(root.path(), path.file_name().and_then(|name| name.to_str()).expect("a name"), "one");
    }
    let stamps = [&file, &signature].map(|path| stamp(path).expect("looked at").expect("a file"));
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let other = root.path().join("other");
    put(root.path(), "other", "another");
    let (done, read_in_time) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let reads = |expected: Option<&[u8]>| {
            for (path, stamp) in [&file, &signature].into_iter().zip(&stamps) {
                let read = read(path, stamp, 100).expect("nothing fails");
                assert_eq!(read.as_deref(), expected, "{}", path.display());
            }
        };
        reads(Some(b"one"));
        let devices = PathBuf::from("/dev/zero");
        for other in [&pipe, &other, &devices] {
            for path in [&file, &signature] {
                ln_sfn(other, path);
            }
            reads(None);
        }
        done.send(()).expect("the test waits for it");
    });
    read_in_time.recv_timeout(Duration::from_secs(30)).expect("the read blocks on the pipe, or has failed");
}

/// The log lines of this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn log(&self) -> tracing::subscriber::DefaultGuard {
        let lines = self.clone();
        tracing::subscriber::set_default(
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || lines.clone()).finish(),
        )
    }

    fn count(&self, what: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(what).count()
    }
}

#[test]
fn a_file_that_is_too_large_is_logged_once() {
    let plugins = directory();
    let mut directory = Directory::new(plugins.path(), 3);
    let lines = Lines::default();
    let _log = lines.log();
    for contents in ["four", "fifty"] {
        put(plugins.path(), "a.wasm", contents);
        assert_eq!(check(&mut directory, false), Err("unchanged"));
        assert_eq!(check(&mut directory, false), Err("unchanged"));
    }
    assert_eq!(lines.count("the file has 4 bytes, and 3 are the most"), 1);
    assert_eq!(lines.count("plugin refused"), 1);
    put(plugins.path(), "a.wasm", "six");
    assert_eq!(check(&mut directory, false), Err("incomplete"));
    assert_eq!(check(&mut directory, false), Ok("six".into()));
}

#[test]
fn a_problem_of_the_directory_is_logged_once_and_its_end_once() {
    let root = directory();
    let plugins = root.path().join("plugins");
    let (wake, wakes) = sync_channel(1);
    let (files, _receiver) = mpsc::channel(1);
    let mut scanner = DirectoryScanner {
        directory: Directory::new(&plugins, MOST),
        rescan: NEVER,
        is_notified: true,
        wake,
        wakes,
        notifications: Arc::default(),
        notifier: None,
        watch_error: None,
        problem: None,
        files,
    };
    let lines = Lines::default();
    let _log = lines.log();
    for _ in 0..3 {
        scanner.watch();
        assert!(scanner.scan(), "there is no file");
    }
    assert_eq!((lines.count("has a problem"), lines.count("watched again")), (1, 0));
    fs::create_dir(&plugins).expect("a directory");
    for _ in 0..3 {
        scanner.watch();
        scanner.scan();
    }
    assert_eq!((lines.count("has a problem"), lines.count("watched again")), (1, 1));
}

#[test]
fn a_write_ends_when_the_file_is_closed_or_renamed_or_stalls() {
    use notify::event::{DataChange, RenameMode};
    let now = Instant::now();
    let (directory, path) = (Path::new("/plugins"), Path::new("/plugins/a.wasm"));
    let event = |kind| Ok(Event::new(kind).add_path(path.into()));
    let writes = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    for end in [
        EventKind::Access(AccessKind::Close(AccessMode::Write)),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)),
    ] {
        let mut noted = Notifications::default();
        assert!(noted.note(event(writes), directory, now));
        assert!(!noted.note(event(EventKind::Access(AccessKind::Open(AccessMode::Any))), directory, now));
        assert!(noted.is_written(path, now));
        assert!(!noted.is_written(path, now + STALLED));
        assert!(noted.note(event(end), directory, now));
        assert!(!noted.is_written(path, now) && !noted.is_replaced);
    }
}
