//! `projector component`: from cargo's output to what the host takes.

use std::path::PathBuf;

use super::CliError;
use crate::operations::component::component;

/// Make a component from a core module.
///
/// `cargo build --target wasm32-unknown-unknown` makes a core module; the host runs components. No other tool is
/// needed.
///
/// Example: projector component target/wasm32-unknown-unknown/release/customers.wasm -o plugins/customers.wasm
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The core module: target/wasm32-unknown-unknown/release/NAME.wasm.
    module: PathBuf,
    /// Where to write the component. The file is written under another name and then renamed, so that a host
    /// never sees half of it.
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
