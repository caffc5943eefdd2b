//! The operations behind the commands and the admin API. Each one returns plain data, so that both can print it.
//!
//! An operation that changes something opens the projection's store, records the requester and the reason, and closes
//! the store whatever the result is (`with_store`).

pub mod adopt;
pub mod backfill;
mod candidate;
pub mod component;
pub mod control;
pub mod dead_letters;
pub mod deployments;
pub mod duplicates;
pub mod generations;
pub mod inspect;
pub mod migrate;
pub mod move_checkpoints;
pub mod plan;
pub mod replay;
pub mod status;
pub mod trial;
pub mod unused;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use projector_config::Config;
use projector_core::generation::{GenerationStatus, Role};
use projector_store::{self as store, Requester, Store};

/// Operations that change which component or generation runs, with what all of them need.
pub struct Operations<'a> {
    pub config: &'a Config,
    /// This program's path: components are compiled in processes of their own.
    pub executable: PathBuf,
    /// Who asks for the operation, and why. Recorded in the history.
    pub requester: &'a Requester,
    /// How long to wait for hosts.
    pub patience: Duration,
    pub progress: Progress<'a>,
}

/// Called with a line of text each time when an operation begins to wait for something else.
pub type Progress<'p> = &'p (dyn Fn(&str) + Sync);

/// Opens a projection's store, runs an operation with it and the live generation, and closes the store, whatever the
/// result is.
async fn with_store<T, F>(
    config: &Config,
    name: &str,
    operation: impl FnOnce(Arc<dyn Store>, GenerationStatus) -> F,
) -> Result<T, OperationError>
where
    F: Future<Output = Result<T, OperationError>>,
{
    let store = store::open_to_operate(config.store_of(name)).await?;
    let result = async {
        let mut generations = store.generations(name).await?.into_iter();
        let live = generations.find(|status| status.role == Role::Live).ok_or_else(|| unknown(name))?;
        operation(store.clone(), live).await
    };
    let result = result.await;
    store.close().await;
    result
}

/// Opens the stores on which a host has ever run, for reading. An error if there is none. The caller closes them.
async fn used_stores(config: &Config) -> Result<Vec<Arc<dyn Store>>, OperationError> {
    let (mut stores, mut unused) = (Vec::new(), None);
    for settings in config.all_stores() {
        match store::open_if_used(settings).await? {
            (_, Some(store)) => stores.push(store),
            (schema, None) => unused = Some(schema.unused()),
        }
    }
    match unused {
        Some(error) if stores.is_empty() => Err(error.into()),
        _ => Ok(stores),
    }
}

fn unknown(name: &str) -> OperationError {
    OperationError::Usage {
        message: format!("no projection is called {name:?}"),
        help: "`projector status` lists all projections".into(),
    }
}

/// Why an operation failed, by what the requester can do about it.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum OperationError {
    /// The request is valid, but it was refused or did not succeed. The text says why.
    #[error("{0}")]
    Failed(String),
    /// The request or the configuration is wrong, and has to be corrected.
    #[error("{message}")]
    Usage {
        message: String,
        #[help]
        help: String,
    },
    /// The brokers or the database did not respond.
    #[error("{message}")]
    Infrastructure {
        message: String,
        #[help]
        help: &'static str,
    },
}

impl OperationError {
    /// The brokers or a database did not respond, for a reason that has no remedy of its own.
    pub fn unanswered(message: String) -> Self {
        let help = "check that it is running, and that the configuration names the right address";
        Self::Infrastructure { message, help }
    }
}

impl From<projector_kafka::LogError> for OperationError {
    fn from(error: projector_kafka::LogError) -> Self {
        use projector_kafka::LogError;
        match error {
            LogError::Client(_) | LogError::Secret(_) => Self::Usage {
                message: format!("Kafka: {error}"),
                help: "correct [kafka] in the configuration".into(),
            },
            LogError::Fault(fault) => fault.into(),
            error => Self::unanswered(format!("Kafka: {error}")),
        }
    }
}

impl From<projector_kafka::KafkaFault> for OperationError {
    fn from(fault: projector_kafka::KafkaFault) -> Self {
        use projector_kafka::ConnectionFaultKind;
        match fault.connection {
            Some(fault) if fault.kind.is_permanent() => {
                Self::Usage { message: format!("Kafka: {}", fault.message), help: fault.kind.remedy().into() }
            }
            Some(fault) if fault.kind == ConnectionFaultKind::Unreachable => Self::Infrastructure {
                message: format!("Kafka: {}", fault.message),
                help: fault.kind.remedy(),
            },
            _ => Self::unanswered(format!("Kafka: {fault}")),
        }
    }
}

impl From<store::StoreError> for OperationError {
    fn from(error: store::StoreError) -> Self {
        match error {
            // The store responded, and refused the request.
            store::StoreError::Refused(refusal) => Self::Failed(refusal.to_string()),
            store::StoreError::Unusable(reason) => Self::Failed(reason),
            store::StoreError::Setup(store::Setup { problem, remedy }) => {
                Self::Usage { message: format!("the read-model database: {problem}"), help: remedy }
            }
            // The database responded: another session holds a lock that is needed.
            store::StoreError::Unavailable(outage) if outage.is_contention() => Self::Failed(outage.message),
            store::StoreError::Unavailable(outage) => {
                Self::unanswered(format!("the read-model database: {outage}"))
            }
            error => Self::unanswered(format!("the read-model database: {error}")),
        }
    }
}
