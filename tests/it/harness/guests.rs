//! The components that hosts are given.

use std::env;
use std::path::{Path, PathBuf};
use std::{fs, io};

use projector_config::Limits;
use projector_core::event::{Event, Partition, Position};
use projector_sandbox::compile::Compiler;
use projector_sandbox::{Engine, Plugin};

pub(crate) const ORDER_SEARCH: &str = "order-search";
pub(crate) const SALES_BY_COUNTRY: &str = "sales-by-country";

/// A component's bytes.
pub(crate) fn guest(name: &str) -> Vec<u8> {
    let component = built().join(format!("{name}.wasm"));
    fs::read(&component).unwrap_or_else(|error| missing(&component, &error))
}

/// The same component under another digest: a section is added that nobody reads.
pub(crate) fn variant(of: &[u8], number: u8) -> Vec<u8> {
    [of, &[0, 3, 1, b'v', number]].concat()
}

/// A component as a host has it, in this process.
pub(crate) fn load(component: &[u8], limits: &Limits) -> Plugin {
    let compiler = Compiler {
        executable: env!("CARGO_BIN_EXE_projector").into(),
        time: limits.component.compile_time,
        memory_bytes: limits.component.compile_memory_bytes,
    };
    Plugin::load(&Engine::new(limits.instance.stack_bytes).unwrap(), &compiler, limits, component).unwrap()
}

/// An event for one that is called without a log to come from.
pub(crate) fn event(offset: i64, payload: &str) -> Event {
    Event {
        position: Position { partition: Partition::new("events", 0), offset },
        topic: 0,
        timestamp_ms: None,
        key: None,
        value: Some(payload.as_bytes().to_vec()),
        also: Vec::new(),
        topic_name: "t".into(),
        oversize_bytes: None,
        headers: vec![],
    }
}

/// Copies components into a plugin directory, each as `<name>.wasm`.
pub(crate) fn install(names: &[&str], directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    for name in names {
        let file = format!("{name}.wasm");
        let component = built().join(&file);
        fs::copy(&component, directory.join(&file)).unwrap_or_else(|error| missing(&component, &error));
    }
}

fn missing(component: &Path, error: &io::Error) -> ! {
    panic!(
        "{}: {error}\nthe guests are built by `cargo xtask test`, or by `cargo xtask guests` alone",
        component.display()
    )
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
