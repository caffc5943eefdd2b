//! libFuzzer on one of the targets, for `cargo xtask fuzz`.
//!
//! Its own words go to the standard error; how far it is goes to the standard output. When a property
//! does not hold it leaves the input among the findings, and ends with another code than 0.

mod mutate;

use std::ffi::{CString, c_char, c_int};
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;
use std::slice;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
// Nothing in it is called from here by a path: it brings libFuzzer along.
use libfuzzer_sys as _;
use projector_fuzz::{Shape, TARGETS, Target, regressions};

#[derive(Parser)]
struct Arguments {
    #[arg(value_parser = target)]
    target: &'static Target,

    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// Inputs that reached something new; the seeds are put there as well.
    #[arg(long)]
    corpus: PathBuf,

    /// Where inputs go for which the property does not hold.
    #[arg(long)]
    findings: PathBuf,

    /// Files that take too long to be tried often: they are changed now and then, and lead nowhere.
    #[arg(long)]
    rarely: Option<PathBuf>,

    /// Nothing but this input.
    #[arg(long)]
    input: Option<PathBuf>,
}

static TARGETS_HERE: [Target; TARGETS.len()] = TARGETS;

fn target(name: &str) -> Result<&'static Target, String> {
    TARGETS_HERE.iter().find(|target| target.name == name).ok_or_else(|| "there is no such target".into())
}

/// An input may run so long: the slowest takes a second on a busy machine.
const INPUT_SECONDS: u32 = 20;
const MEMORY_MIB: u32 = 2_048;
/// One input in so many is made of those that take long.
const RARELY: u32 = 512;
/// Between two lines that say how far it is.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

struct Running {
    target: &'static Target,
    rarely: Vec<Vec<u8>>,
    since: Instant,
    inputs: AtomicU64,
    taken: AtomicU64,
}

static RUNNING: OnceLock<Running> = OnceLock::new();

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let target = arguments.target;
    // Otherwise the stack would be unwound, and libFuzzer would know nothing of it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let rarely = arguments.rarely.as_deref().map(files).transpose()?.unwrap_or_default();
    let most_bytes = rarely.iter().map(Vec::len).chain([target.most_bytes]).max().unwrap_or_default();
    let (inputs, taken) = (AtomicU64::new(0), AtomicU64::new(0));
    let _ = RUNNING.set(Running { target, rarely, since: Instant::now(), inputs, taken });

    let mut words = vec![
        "projector-fuzz".to_owned(),
        format!("-artifact_prefix={}/", arguments.findings.display()),
        format!("-timeout={INPUT_SECONDS}"),
        format!("-rss_limit_mb={MEMORY_MIB}"),
    ];
    fs::create_dir_all(&arguments.findings).context("the findings cannot be kept")?;
    match arguments.input {
        Some(input) => words.push(input.display().to_string()),
        None => {
            fs::create_dir_all(&arguments.corpus).context("the corpus cannot be kept")?;
            for (at, seed) in (target.seeds)().into_iter().enumerate() {
                fs::write(arguments.corpus.join(format!("seed-{at:02}")), seed)?;
            }
            words.push(format!("-max_total_time={}", arguments.seconds));
            words.push(format!("-max_len={most_bytes}"));
            if !matches!(target.shape, Shape::Free) {
                // Or it would go on with what was refused.
                words.push("-mutate_depth=1".to_owned());
            }
            words.push(arguments.corpus.display().to_string());
            let kept = regressions().join(target.name);
            words.extend(kept.is_dir().then(|| kept.display().to_string()));
            thread::spawn(|| {
                loop {
                    thread::sleep(LINE_INTERVAL);
                    say_how_far();
                }
            });
        }
    }
    run(words)
}

fn files(directory: &Path) -> Result<Vec<Vec<u8>>> {
    let read = |entry: std::io::Result<fs::DirEntry>| fs::read(entry?.path());
    let files = fs::read_dir(directory).and_then(|entries| entries.map(read).collect());
    files.with_context(|| directory.display().to_string())
}

fn say_how_far() {
    let Some(Running { target, since, inputs, taken, .. }) = RUNNING.get() else { return };
    let (inputs, taken) = (inputs.load(Ordering::Relaxed), taken.load(Ordering::Relaxed));
    let seconds = since.elapsed().as_secs_f64();
    println!(
        "{:12} {seconds:4.0} s  {inputs:>10} inputs, {:>7.0} a second, {taken} taken",
        target.name,
        inputs as f64 / seconds
    );
}

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        argc: *mut c_int,
        argv: *mut *mut *mut c_char,
        one_input: unsafe extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
    fn LLVMFuzzerMutate(data: *mut u8, size: usize, most: usize) -> usize;
    fn atexit(callback: extern "C" fn()) -> c_int;
}

fn run(words: Vec<String>) -> Result<()> {
    let words = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    let mut argc = words.len() as c_int;
    let mut argv: Vec<*mut c_char> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    argv.push(ptr::null_mut());
    let mut argv = argv.as_mut_ptr();
    // SAFETY: the callback neither unwinds nor leaves anything to the process. Count and words are as
    // those of a `main`, and live until the driver is done.
    let code = unsafe {
        atexit(at_the_end);
        LLVMFuzzerRunDriver(&raw mut argc, &raw mut argv, one_input)
    };
    std::process::exit(code)
}

/// The driver ends the process itself.
extern "C" fn at_the_end() {
    say_how_far();
}

unsafe extern "C" fn one_input(data: *const u8, size: usize) -> c_int {
    let bytes = match size {
        0 => &[],
        // SAFETY: libFuzzer gives as many bytes as it says, for as long as the call takes.
        _ => unsafe { slice::from_raw_parts(data, size) },
    };
    let Some(Running { target, inputs, taken, .. }) = RUNNING.get() else { return UNWANTED };
    inputs.fetch_add(1, Ordering::Relaxed);
    let is_taken = (target.check)(bytes);
    taken.fetch_add(is_taken.into(), Ordering::Relaxed);
    // Where the shape is kept, what is refused is a step from what is taken. What is made of the refused
    // is refused as well, and would soon be all that is tried.
    match target.shape {
        _ if bytes.len() > target.most_bytes => UNWANTED,
        Shape::Measured | Shape::Json { .. } if !is_taken => UNWANTED,
        _ => WANTED,
    }
}

/// Whether the input may join the corpus, if it reached something new.
const WANTED: c_int = 0;
const UNWANTED: c_int = -1;

/// What libFuzzer calls for the next input, if there is a function of this name.
///
/// # Safety
///
/// `data` has room for `most` bytes, of which the first `size` are an input.
#[unsafe(no_mangle)]
unsafe extern "C" fn LLVMFuzzerCustomMutator(data: *mut u8, size: usize, most: usize, seed: u32) -> usize {
    // SAFETY: as promised; the borrow ends before libFuzzer writes there.
    let changed = unsafe { changed(slice::from_raw_parts(data, size), most, seed) };
    match changed {
        // SAFETY: it is no longer than `most`.
        Some(bytes) => unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len());
            bytes.len()
        },
        // SAFETY: as promised.
        None => unsafe { LLVMFuzzerMutate(data, size, most) },
    }
}

/// Every other time. Otherwise libFuzzer changes the bytes.
fn changed(input: &[u8], most: usize, seed: u32) -> Option<Vec<u8>> {
    let Running { target, rarely, .. } = RUNNING.get()?;
    let rare = rarely.get((seed / RARELY) as usize % rarely.len().max(1));
    let bytes = match (target.shape, rare) {
        (_, Some(rare)) if seed.is_multiple_of(RARELY) => mutate::in_place(rare, seed),
        (Shape::Free, _) => return None,
        _ if seed.is_multiple_of(2) => return None,
        (Shape::Measured, _) => mutate::in_place(input, seed),
        (Shape::Json { begins }, _) => {
            let (before, document) = input.split_at(begins(input));
            [before, &mutate::json(document, seed)?].concat()
        }
    };
    (bytes.len() <= most).then_some(bytes)
}
