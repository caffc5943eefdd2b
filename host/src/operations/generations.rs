//! Generations beside the live one, and whole projections: comparing, promoting, retiring, stopping, dropping.

use projector_config::Config;
use projector_core::deployment::Origin;
use projector_core::generation::{GenerationStatus, Role};
use projector_kafka::KafkaAdmin;
use projector_store::diff::{Diff, Expected};
use projector_store::{Requester, Store};
use serde::Serialize;

use super::{OperationError, with_store};
use crate::deploy::compare::{CompareError, compare};
use crate::deploy::promote::{self, PromoteError, Promotion, Terms};
use crate::deploy::readers::{self, Move};

/// Stops a projection on all hosts, or lets hosts run it again.
pub async fn set_stopped(
    config: &Config,
    name: &str,
    stopped: bool,
    requester: &Requester,
) -> Result<(), OperationError> {
    with_store(config, name, |store, _| async move { Ok(store.set_stopped(name, stopped, requester).await?) })
        .await
}

/// Drops a stopped projection with its rows.
pub async fn drop_projection(
    config: &Config,
    name: &str,
    requester: &Requester,
) -> Result<(), OperationError> {
    with_store(config, name, |store, _| async move {
        let control = store.control_state().await?;
        if control.iter().any(|control| control.generation.projection == name && !control.stopped) {
            return Err(OperationError::Failed(format!(
                "{name} is not stopped: run `projector stop {name}` first, and make sure that its views have no readers any more"
            )));
        }
        Ok(store.drop_projection(name, requester).await?)
    })
    .await
}

/// Removes a generation that is not live. Without a number: the warm one, or else the one that is being built.
pub async fn retire(
    config: &Config,
    name: &str,
    number: Option<i32>,
    requester: &Requester,
) -> Result<i32, OperationError> {
    with_store(config, name, |store, live| async move {
        let other = other(&*store, &live, number, &[Role::Warm, Role::Building]).await?;
        store.retire(&other.generation, Origin::Command, requester).await?;
        Ok(other.generation.number)
    })
    .await
}

/// Removes views that show the columns of before, because readers used them when newer columns were added.
pub async fn retire_views(
    config: &Config,
    name: &str,
    schema: &str,
    requester: &Requester,
) -> Result<(), OperationError> {
    with_store(config, name, |store, _| async move { Ok(store.retire_views(name, schema, requester).await?) })
        .await
}

/// The difference between a generation and the live one: in rows, and for readers of the views.
#[derive(Debug, Serialize)]
pub struct Compared {
    #[serde(flatten)]
    pub diff: Diff,
    /// What a promotion changes for readers; absent if nothing does.
    pub move_readers: Option<Move>,
}

/// Compares the live generation with another one.
pub async fn diff(
    config: &Config,
    name: &str,
    number: Option<i32>,
    expected: &[String],
    samples: usize,
) -> Result<Compared, OperationError> {
    with_store(config, name, |store, live| async move {
        let new = other(&*store, &live, number, &[Role::Building, Role::Warm]).await?;
        let declared = &config.deploy_of(name).expected_differences;
        let words: Vec<String> = declared.iter().chain(expected).cloned().collect();
        let expected = Expected::parse(&words).map_err(|message| OperationError::Usage {
            message,
            help: "write `table` or `table.column`".into(),
        })?;
        let diff = compare(&*store, &live, &new, &expected, samples).await?;
        let move_readers = readers::from(&*store, &live, &new.layout).await?;
        Ok(Compared { diff, move_readers })
    })
    .await
}

/// Promotes a generation, on these terms.
pub async fn promote(
    config: &Config,
    name: &str,
    number: Option<i32>,
    terms: Terms<'_>,
) -> Result<Promotion, OperationError> {
    with_store(config, name, |store, live| async move {
        let new = other(&*store, &live, number, &[Role::Building, Role::Warm]).await?;
        let log = KafkaAdmin::open(&config.kafka)?;
        Ok(promote::promote(config, &*store, &log, (&live, &new), terms).await?)
    })
    .await
}

/// The generation with this number beside the live one, if it has one of these roles. Without a number: the newest
/// generation of the first role that any generation has.
pub(super) async fn other(
    store: &dyn Store,
    live: &GenerationStatus,
    number: Option<i32>,
    roles: &[Role],
) -> Result<GenerationStatus, OperationError> {
    let name = &live.generation.projection;
    let statuses = store.generations(name).await?;
    let is_meant = |status: &&GenerationStatus| match number {
        Some(number) => status.generation.number == number,
        None => true,
    };
    let of_role =
        |role: &Role| statuses.iter().rfind(|status| status.role == *role && is_meant(status)).cloned();
    roles.iter().find_map(of_role).ok_or_else(|| OperationError::Usage {
        message: match number {
            Some(number) => format!("{name} has no generation {number} beside the live one"),
            None => format!("{name} has no generation beside the live one"),
        },
        help: format!(
            "`projector status {name}` shows its generations; `projector rebuild {name}` builds a new one"
        ),
    })
}

impl From<CompareError> for OperationError {
    fn from(error: CompareError) -> Self {
        match error {
            CompareError::Store(error) => error.into(),
            CompareError::NotYet(reason) => Self::Failed(reason),
        }
    }
}

impl From<PromoteError> for OperationError {
    fn from(error: PromoteError) -> Self {
        match error {
            PromoteError::Compare(error) => error.into(),
            PromoteError::Log(error) => error.into(),
            PromoteError::Refused(reason)
            | PromoteError::Behind(reason)
            | PromoteError::Differs(reason, _) => Self::Failed(reason),
        }
    }
}
