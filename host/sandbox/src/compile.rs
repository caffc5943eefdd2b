//! Compiles components in a separate process.
//!
//! Components come from outside, and even a small one can keep a compiler busy for hours or exhaust its
//! memory. So the host starts itself as a worker (`projector compile-worker`), with limits of memory and
//! processor time that the operating system enforces, and takes only the finished artifact.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::{engine, names};

/// The hidden subcommand that runs [`worker`].
pub const WORKER_COMMAND: &str = "compile-worker";

/// How to start the worker, and the worker's limits.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// The host's own executable.
    pub executable: PathBuf,
    /// Wall time. The worker is killed after it.
    pub time: Duration,
    pub memory_bytes: u64,
}

/// Why the compilation failed.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler refused the component, with this message.
    #[error("{0}")]
    Invalid(String),
    #[error("the compilation took longer than {0:?}")]
    Time(Duration),
    #[error("the compilation took more than {0} bytes of memory, or the compiler crashed: {1}")]
    Memory(u64, String),
    /// The worker could not be started. The component may be fine.
    #[error("the compiler could not be run: {0}")]
    Worker(#[from] std::io::Error),
}

impl Compiler {
    /// Compiles a component to an artifact for this host's engine. Blocks the thread.
    pub(super) fn compile(&self, component: &[u8]) -> Result<Vec<u8>, CompileError> {
        let mut worker = Command::new(&self.executable)
            .arg(WORKER_COMMAND)
            .arg(self.memory_bytes.to_string())
            .arg(self.time.as_secs().max(1).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let missing = || std::io::Error::other("no pipe to the worker");
        let mut stdin = worker.stdin.take().ok_or_else(missing)?;
        let mut stdout = worker.stdout.take().ok_or_else(missing)?;
        let mut stderr = worker.stderr.take().ok_or_else(missing)?;
        let component = component.to_vec();
        // If the worker dies, this write fails, and is ignored: the worker's exit status is more
        // informative.
        std::thread::spawn(move || stdin.write_all(&component));
        let message = std::thread::spawn(move || {
            let mut message = String::new();
            let _ = stderr.by_ref().take(10_000).read_to_string(&mut message);
            message
        });
        let (finished, artifact) = mpsc::channel();
        std::thread::spawn(move || {
            let mut artifact = Vec::new();
            let read = stdout.read_to_end(&mut artifact).map(|_| artifact);
            let _ = finished.send(read);
        });
        let artifact = artifact.recv_timeout(self.time);
        if artifact.is_err() {
            worker.kill()?;
        }
        let status = worker.wait()?;
        let message = message.join().unwrap_or_default();
        match artifact {
            Err(_) => Err(CompileError::Time(self.time)),
            Ok(artifact) if status.success() => Ok(artifact?),
            Ok(_) if status.code() == Some(REFUSED) => Err(CompileError::Invalid(message.trim().into())),
            Ok(_) => Err(CompileError::Memory(self.memory_bytes, format!("{status} {}", message.trim()))),
        }
    }
}

/// Compiles in this process, without limits of time and memory, and with short names of functions. The
/// error is the compiler's message.
pub(super) fn in_process(engine: &wasmtime::Engine, component: Vec<u8>) -> Result<Vec<u8>, String> {
    let compile =
        |component: &[u8]| engine.precompile_component(component).map_err(|error| format!("{error:#}"));
    let Some(shortened) = names::shortened(&component) else {
        // The compiler's own message about such a component is better.
        return compile(&component).and(Err("the component's sections cannot be read".to_owned()));
    };
    // Frees memory for the compiler.
    drop(component);
    compile(&shortened)
}

/// The worker's exit code for a component that is not valid.
const REFUSED: i32 = 65;

/// The worker process: reads a component from standard input and writes the artifact to standard output.
/// Returns the exit code.
pub fn worker(memory_bytes: u64, seconds: u64) -> std::process::ExitCode {
    let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
    // Limits the memory that is written to. A limit of the address space (`Resource::As`) would count the
    // program's code and what the allocator reserves for each thread.
    let limited = setrlimit(Resource::Data, limit(memory_bytes))
        // The processor time of all threads together, generously: the parent's clock ends the worker
        // before.
        .and_then(|()| setrlimit(Resource::Cpu, limit(seconds.saturating_mul(64))))
        .and_then(|()| setrlimit(Resource::Core, limit(0)));
    let compile = || -> Result<Vec<u8>, String> {
        limited.map_err(|error| format!("the limits of the compile worker cannot be set: {error}"))?;
        let mut component = Vec::new();
        std::io::stdin().read_to_end(&mut component).map_err(|error| error.to_string())?;
        let limits = format!("{memory_bytes}-{seconds}");
        reuse_or_compile(component, &limits, |component| {
            let engine = wasmtime::Engine::new(&engine::config()).map_err(|error| format!("{error:#}"))?;
            in_process(&engine, component)
        })
    };
    match compile() {
        Ok(artifact) => match std::io::stdout().write_all(&artifact) {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(_) => std::process::ExitCode::FAILURE,
        },
        Err(reason) => {
            eprintln!("{}", projector_core::event_failure::printable(&reason));
            std::process::ExitCode::from(REFUSED as u8)
        }
    }
}

/// The artifact of a component, compiled by `compile` if it is not known.
///
/// Tests start hundreds of hosts with the same few components. If `PROJECTOR_ARTIFACTS` names a directory, workers of debug
/// builds compile each component once for the same limits, and read the artifact from this directory after that. Release
/// builds do not do this: an artifact is machine code, and wasmtime does not check it.
fn reuse_or_compile(
    component: Vec<u8>,
    limits: &str,
    compile: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, String> {
    let directory = std::env::var_os("PROJECTOR_ARTIFACTS").filter(|_| cfg!(debug_assertions));
    let Some(directory) = directory else { return compile(component) };
    let path = PathBuf::from(directory).join(format!("{}-{limits}", super::digest(&component)));
    if let Ok(artifact) = std::fs::read(&path) {
        return Ok(artifact);
    }
    let artifact = compile(component)?;
    // Another worker never reads half of it.
    let unfinished = path.with_extension(std::process::id().to_string());
    std::fs::write(&unfinished, &artifact)
        .and_then(|()| std::fs::rename(&unfinished, &path))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(artifact)
}
