//! Why a request to the brokers fails.

use projector_config::TextError;
use projector_core::failure::FailureKind;
use rdkafka::error::KafkaError;

use super::kafka_fault::KafkaFault;

/// Why a request to the brokers failed, or a consumer could not be created.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the Kafka client cannot be created: {0}")]
    Client(KafkaError),
    #[error("a Kafka secret cannot be read: {0}")]
    Secret(TextError),
    #[error("the poll thread cannot be started: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Fault(#[from] KafkaFault),
    #[error("the task that asks the brokers panicked: {0}")]
    Panicked(String),
}

impl LogError {
    pub fn kind(&self) -> FailureKind {
        match self {
            LogError::Client(_) | LogError::Secret(_) => FailureKind::Login,
            LogError::Thread(_) => FailureKind::Machine,
            LogError::Fault(fault) => fault.kind(),
            LogError::Panicked(_) => FailureKind::Crash,
        }
    }
}
