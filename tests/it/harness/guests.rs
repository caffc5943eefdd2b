//! The components that hosts are given.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) const ORDER_SEARCH: &str = "order-search";
pub(crate) const SALES_BY_COUNTRY: &str = "sales-by-country";

/// Copies components into a plugin directory, each as `<name>.wasm`.
pub(crate) fn install(names: &[&str], directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    for name in names {
        let file = format!("{name}.wasm");
        let component = built().join(&file);
        fs::copy(&component, directory.join(&file)).unwrap_or_else(|error| {
            panic!(
                "{}: {error}\nthe guests are built by `cargo xtask test`, or by `cargo xtask guests` alone",
                component.display()
            )
        });
    }
}

/// Where xtask puts what it builds.
fn built() -> PathBuf {
    match env::var_os("PROJECTOR_GUESTS") {
        Some(directory) => directory.into(),
        None => {
            let profile = Path::new(env!("CARGO_BIN_EXE_projector")).parent();
            profile.and_then(Path::parent).expect("target/<profile>/projector").join("guests")
        }
    }
}
