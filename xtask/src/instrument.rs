//! This program in rustc's place. `cargo xtask fuzz` has cargo compile the workspace's own crates
//! through it, and nothing else: the dependencies are those of every other build.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Set where cargo runs this program instead of rustc.
const INSTRUMENTING: &str = "PROJECTOR_XTASK_INSTRUMENTING";

/// So that libFuzzer sees which code an input reaches, and what it is compared to. LLVM does it; what
/// cargo-fuzz needs a nightly compiler for is the address sanitizer, of which safe code has no need.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Has `cargo` compile the workspace's crates through this program.
pub(crate) fn instrumented(cargo: &mut Command) -> std::io::Result<&mut Command> {
    Ok(cargo.env("RUSTC_WORKSPACE_WRAPPER", env::current_exe()?).env(INSTRUMENTING, "1"))
}

/// Does what cargo wants of rustc, if that is why this program runs.
pub(crate) fn in_place_of_rustc() -> Option<ExitCode> {
    env::var_os(INSTRUMENTING)?;
    let mut words = env::args_os().skip(1);
    let mut rustc = Command::new(words.next()?);
    rustc.args(words);
    // Macros are loaded by the compiler, which has no libFuzzer in it.
    let for_the_compiler = rustc.get_args().any(|word| word == "proc-macro")
        || rustc.get_args().any(|word| word == "build_script_build");
    if !for_the_compiler {
        rustc.args(FLAGS);
    }
    let error = rustc.exec();
    eprintln!("error: {}: {error}", rustc.get_program().display());
    Some(ExitCode::FAILURE)
}
