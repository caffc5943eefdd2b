//! `projector component`: makes a component from a core module, which cargo builds.

use std::path::PathBuf;

use super::CliError;
use crate::operations::component::component;

/// Make a WebAssembly component from a core module.
///
/// `cargo build --target wasm32-unknown-unknown` builds a core module; the host runs components. No other
/// tool is needed.
///
/// Example: projector component target/wasm32-unknown-unknown/release/customers.wasm -o plugins/customers.wasm
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The core module: target/wasm32-unknown-unknown/release/NAME.wasm.
    module: PathBuf,
    /// Where to write the component. The command writes another file first and then renames it, so that a
    /// host never reads a half-written component.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let component = component(&super::read(&arguments.module)?)?;
    let beside = arguments.output.with_extension("wasm.partial");
    std::fs::write(&beside, component).and_then(|()| std::fs::rename(&beside, &arguments.output)).map_err(
        |error| CliError::failed(format!("{} cannot be written: {error}", arguments.output.display())),
    )
}
