//! Generates the Rust side of the contract `wit/v1` for the SDK, and checks that the checked-in file is equal.
//!
//! With `UPDATE_EXPECT=1` the test writes the file. The test is in xtask because no guest is built with xtask, and because
//! xtask can be built while the file is wrong.

use std::path::Path;

use anyhow::{Context, Result};
use expect_test::expect_file;
use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};
use wit_bindgen_rust::Opts;

const HEAD: &str = "\
// Generated from wit/v1: `UPDATE_EXPECT=1 cargo test --bin xtask bindings` writes this file. A test checks it.
";

/// The path of the module that has the generated code, as the crate of a plugin names the module.
const MODULE: &str = "projector_sdk::bindings";

fn generate(contract: &Path) -> Result<String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(contract)?;
    let world = resolve.select_world(&[package], Some("projection"))?;
    let options = Opts {
        format: true,
        pub_export_macro: true,
        export_macro_name: Some("export".to_owned()),
        default_bindings_module: Some(MODULE.to_owned()),
        ..Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files)?;
    let (_, code) = files.iter().next().context("wit-bindgen generates no file")?;
    Ok(format!("{HEAD}{}", str::from_utf8(code)?))
}

#[test]
fn the_checked_in_bindings_are_those_of_the_contract() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no workspace")?;
    let code = generate(&root.join("wit/v1"))?;
    expect_file![root.join("guest-sdk/src/bindings/generated.rs")].assert_eq(&code);
    Ok(())
}
