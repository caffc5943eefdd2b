//! What can be asked of Projector, whoever asks: each operation returns plain data.

pub mod component;
pub mod inspect;
pub mod status;

/// Why an operation has no answer, by what whoever asked can do about it.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum OperationError {
    /// The question is answered, and the answer is no.
    #[error("{0}")]
    Failed(String),
    /// The question itself is wrong.
    #[error("{message}")]
    Usage {
        message: String,
        #[help]
        help: String,
    },
    /// The brokers or the database could not be asked.
    #[error("{message}")]
    #[diagnostic(help("is it running, and does this configuration name it?"))]
    Infrastructure { message: String },
}

impl From<crate::source::LogError> for OperationError {
    fn from(error: crate::source::LogError) -> Self {
        Self::Infrastructure { message: format!("Kafka: {error}") }
    }
}

impl From<crate::store::StoreError> for OperationError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Infrastructure { message: format!("the read-model database: {error}") }
    }
}
