//! What may be asked for a projection's versions.

use serde::Serialize;

/// What is to become of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentAction {
    /// A version.
    Deploy,
    /// The version before.
    Rollback,
    /// All rows anew.
    Rebuild,
    /// All rows anew, first from a file: no host runs it before the log takes over.
    Backfill,
}

impl DeploymentAction {
    pub fn as_str(self) -> &'static str {
        match self {
            DeploymentAction::Deploy => "deploy",
            DeploymentAction::Rollback => "rollback",
            DeploymentAction::Rebuild => "rebuild",
            DeploymentAction::Backfill => "backfill",
        }
    }

    /// `None`: an action that only a newer host knows.
    pub fn from_word(word: &str) -> Option<Self> {
        [
            DeploymentAction::Deploy,
            DeploymentAction::Rollback,
            DeploymentAction::Rebuild,
            DeploymentAction::Backfill,
        ]
        .into_iter()
        .find(|action| action.as_str() == word)
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A file in a plugin directory: only for a component that the projection never had.
    Directory,
    Command,
    /// The host itself.
    Host,
}

impl Origin {
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Directory => "directory",
            Origin::Command => "command",
            Origin::Host => "host",
        }
    }
}
