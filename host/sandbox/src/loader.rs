//! Makes a plugin from a file's bytes: compiles the component, checks its imports and exports, and calls
//! `describe`.
//!
//! Invariants: the digest is that of the bytes that were compiled. A plugin imports nothing but the contract's
//! types and `log`, and its descriptor is valid.

use std::sync::Arc;

use projector_config::Limits;
use projector_model::{Contract, Descriptor, Problems};
use wasmtime::component::{Component, HasSelf, Linker};

use super::bindings::{Projection, ProjectionPre};
use super::call::{State, describe};
use super::compile::{self, CompileError, Compiler};
use super::engine::Engine;
use super::imports::Forbidden;
use super::log::GuestLogger;

/// The import for the contract's types. It has nothing but types.
const TYPES: &str = "projector:plugin/types@1.0.0-draft";

/// A checked component that can be called. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    /// SHA-256 of the component's bytes, in lowercase hex.
    pub digest: String,
    pub contract: Arc<Contract>,
    pub(super) engine: Engine,
    pub(super) pre: ProjectionPre<State>,
    /// The limits of the projection for which the plugin was loaded.
    pub limits: Limits,
    pub(super) log: Arc<GuestLogger>,
}

/// Why a file is not a plugin. The version that runs continues.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("it has {bytes} bytes, and {most} are the most")]
    TooLarge { bytes: usize, most: usize },
    #[error(
        "the file is a core module, not a component: convert it with `projector component FILE.wasm -o OUT.wasm`"
    )]
    CoreModule,
    #[error("the file is not a WebAssembly component: {0}")]
    Malformed(String),
    #[error(transparent)]
    Compile(CompileError),
    #[error("{0}")]
    Import(Forbidden),
    #[error(
        "the component was built for another version of the contract: it imports its types from `{0}`, but this host has `{TYPES}`; build the plugin with the projector-sdk of this host's version"
    )]
    Version(String),
    #[error(
        "the component does not export what `wit/v1` requires: {0}; build the plugin with the projector-sdk of this host's version"
    )]
    Export(String),
    #[error("the plugin's `describe` failed: {0}")]
    Describe(String),
    #[error("the plugin's descriptor is not valid:\n{0}")]
    Descriptor(Problems),
    #[error("the plugin reads the topic `{topic}`, which `projections.{projection}.topics` does not allow")]
    NotGranted { projection: String, topic: String },
    #[error("the plugin reads a topic that cannot exist: {0}; set the physical name in `kafka.topics`")]
    Topic(#[from] projector_core::topics::TopicError),
}

impl LoadError {
    /// Whether the cause may be this machine and not the file, so that another attempt may succeed.
    pub fn is_ours(&self) -> bool {
        matches!(self, LoadError::Compile(CompileError::Worker(_)))
    }
}

impl Plugin {
    /// Compiles and checks a component. Blocks the thread until the compiler has finished.
    pub fn load(
        engine: &Engine,
        compiler: &Compiler,
        limits: &Limits,
        bytes: &[u8],
    ) -> Result<Self, LoadError> {
        Self::load_by(|bytes| compiler.compile(bytes), engine, limits, bytes)
    }

    /// Like [`load`](Self::load), but compiles in this process, without limits: for trusted bytes, or for a
    /// fuzzer, which has limits of its own.
    pub fn load_in_process(engine: &Engine, limits: &Limits, bytes: &[u8]) -> Result<Self, LoadError> {
        let compile =
            |bytes: &[u8]| compile::in_process(&engine.inner, bytes.to_vec()).map_err(CompileError::Invalid);
        Self::load_by(compile, engine, limits, bytes)
    }

    fn load_by(
        compile: impl FnOnce(&[u8]) -> Result<Vec<u8>, CompileError>,
        engine: &Engine,
        limits: &Limits,
        bytes: &[u8],
    ) -> Result<Self, LoadError> {
        if bytes.len() > limits.component.bytes {
            return Err(LoadError::TooLarge { bytes: bytes.len(), most: limits.component.bytes });
        }
        match bytes {
            [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
                return Err(Forbidden::by_module(bytes).map_or(LoadError::CoreModule, LoadError::Import));
            }
            [0, b'a', b's', b'm', ..] => {}
            _ => return Err(LoadError::Malformed("the file does not begin with `\\0asm`".into())),
        }
        let artifact = compile(bytes).map_err(|error| match error {
            CompileError::Invalid(reason) => LoadError::Malformed(reason),
            error => LoadError::Compile(error),
        })?;
        // SAFETY: the artifact was made by this executable or its worker, from these bytes, a moment
        // ago, and has not left memory.
        let component = unsafe { Component::deserialize(&engine.inner, artifact) }
            .map_err(|error| LoadError::Malformed(format!("{error:#}")))?;
        check_imports(engine, &component)?;
        let pre = link(engine, &component)?;
        let json =
            describe(engine, &pre, limits).map_err(|failure| LoadError::Describe(failure.to_string()))?;
        let most = limits.component.descriptor_bytes;
        if json.len() > most {
            let bytes = json.len();
            return Err(LoadError::Describe(format!("it returned {bytes} bytes, and {most} are the most")));
        }
        let contract =
            Descriptor::from_json(&json).and_then(Descriptor::check).map_err(LoadError::Descriptor)?;
        Ok(Self {
            digest: super::digest(bytes),
            log: GuestLogger::open(engine, contract.name(), &contract.descriptor.version, limits),
            contract: Arc::new(contract),
            engine: engine.clone(),
            pre,
            limits: limits.clone(),
        })
    }
}

fn check_imports(engine: &Engine, component: &Component) -> Result<(), LoadError> {
    for (name, _) in component.component_type().imports(&engine.inner) {
        match name {
            "log" | TYPES => {}
            // Wasmtime would accept any version, since only types are imported.
            _ if name.starts_with("projector:plugin/types@") => {
                return Err(LoadError::Version(name.to_owned()));
            }
            _ => return Err(LoadError::Import(Forbidden::by_component(name))),
        }
    }
    Ok(())
}

fn link(engine: &Engine, component: &Component) -> Result<ProjectionPre<State>, LoadError> {
    let mismatch = |error: wasmtime::Error| LoadError::Export(format!("{error:#}"));
    let mut linker = Linker::new(&engine.inner);
    Projection::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state).map_err(mismatch)?;
    let pre = linker.instantiate_pre(component).map_err(mismatch)?;
    ProjectionPre::new(pre).map_err(mismatch)
}
