//! From a file's bytes to a plugin that may run: compiled, held against the contract, described.

use std::sync::Arc;

use projector_model::{Contract, Descriptor, Problems};
use wasmtime::component::{Component, HasSelf, Linker};

use super::bindings::{Projection, ProjectionPre};
use super::compile::{self, CompileError, Compiler};
use super::engine::Engine;
use super::imports::Forbidden;
use super::instance::{Instance, State};
use super::limits::Limits;
use super::log::GuestLogger;

/// What a component imports for the contract's types: an instance that holds nothing else.
const TYPES: &str = "projector:plugin/types@1.0.0-draft";

/// A component that was checked and can be called. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    /// SHA-256 of the bytes that were compiled, in hex.
    pub digest: String,
    pub contract: Arc<Contract>,
    pub(super) engine: Engine,
    pub(super) pre: ProjectionPre<State>,
    pub limits: Limits,
    pub(super) log: Arc<GuestLogger>,
}

/// Why a file is not a plugin. What ran before goes on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("it has {bytes} bytes, and {most} are the most")]
    TooLarge { bytes: usize, most: usize },
    #[error("it is a core module, not a component: run `projector component FILE.wasm -o OUT.wasm` on it")]
    CoreModule,
    #[error("it is not a WebAssembly component: {0}")]
    Malformed(String),
    #[error(transparent)]
    Compile(CompileError),
    #[error("{0}")]
    Import(Forbidden),
    #[error(
        "it was built for another version of the contract: it takes its types from `{0}`, and this host has `{TYPES}`; build it with a projector-sdk of this host's version"
    )]
    Version(String),
    #[error(
        "it does not export what `wit/v1` asks for: {0}; build it with a projector-sdk of this host's version"
    )]
    Export(String),
    #[error("its `describe` failed: {0}")]
    Describe(String),
    #[error("its descriptor is not sound:\n{0}")]
    Descriptor(Problems),
    #[error("it reads the topic `{topic}`, which `projections.{projection}.topics` does not grant")]
    NotGranted { projection: String, topic: String },
    #[error("it reads a topic that cannot be read: {0}; say in `kafka.topics` what it is called in the log")]
    Topic(#[from] crate::topics::TopicError),
}

impl LoadError {
    /// Whether the fault may lie with this machine rather than with the file.
    pub fn is_ours(&self) -> bool {
        matches!(self, LoadError::Compile(CompileError::Worker(_)))
    }
}

impl Plugin {
    /// Compiles and checks a component. Blocks for as long as the compiler may take.
    pub fn load(
        engine: &Engine,
        compiler: &Compiler,
        limits: &crate::config::Limits,
        bytes: &[u8],
    ) -> Result<Self, LoadError> {
        Self::load_by(|bytes| compiler.compile(bytes), engine, limits, bytes)
    }

    /// The same in this process, where nothing bounds the compiler: for bytes that are trusted, or a
    /// fuzzer, which has limits of its own.
    pub fn load_in_process(
        engine: &Engine,
        limits: &crate::config::Limits,
        bytes: &[u8],
    ) -> Result<Self, LoadError> {
        let compile =
            |bytes: &[u8]| compile::in_process(&engine.inner, bytes.to_vec()).map_err(CompileError::Invalid);
        Self::load_by(compile, engine, limits, bytes)
    }

    fn load_by(
        compile: impl FnOnce(&[u8]) -> Result<Vec<u8>, CompileError>,
        engine: &Engine,
        limits: &crate::config::Limits,
        bytes: &[u8],
    ) -> Result<Self, LoadError> {
        if bytes.len() > limits.component_bytes {
            return Err(LoadError::TooLarge { bytes: bytes.len(), most: limits.component_bytes });
        }
        match bytes {
            [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
                return Err(Forbidden::by_module(bytes).map_or(LoadError::CoreModule, LoadError::Import));
            }
            [0, b'a', b's', b'm', ..] => {}
            _ => return Err(LoadError::Malformed("it does not begin with `\\0asm`".into())),
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
        let most = limits.descriptor_bytes;
        let limits = Limits::from(limits);
        let json = Instance::describe(engine, &pre, &limits)
            .map_err(|failure| LoadError::Describe(failure.to_string()))?;
        if json.len() > most {
            let bytes = json.len();
            return Err(LoadError::Describe(format!(
                "it answered with {bytes} bytes, and {most} are the most"
            )));
        }
        let contract =
            Descriptor::from_json(&json).and_then(Descriptor::check).map_err(LoadError::Descriptor)?;
        Ok(Self {
            digest: super::digest(bytes),
            log: GuestLogger::open(engine, contract.name(), &contract.descriptor.version, &limits),
            contract: Arc::new(contract),
            engine: engine.clone(),
            pre,
            limits,
        })
    }
}

fn check_imports(engine: &Engine, component: &Component) -> Result<(), LoadError> {
    for (name, _) in component.component_type().imports(&engine.inner) {
        match name {
            "log" | TYPES => {}
            // Nothing but types is linked, so wasmtime would not mind.
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
