//! A generation: one build of a projection's tables, and what it is to readers.

use projector_model::Descriptor;
use serde::Serialize;

use crate::layout::Layout;
use crate::refusal::Refusal;
use crate::views::{self, ViewSet};

/// One build of a projection's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The store's own key.
    pub id: i64,
    pub projection: String,
    pub number: i32,
    /// The schema of its tables (Postgres), or the prefix of their names (SQLite).
    pub schema: String,
}

/// What a generation is to readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Built beside the live one.
    Building,
    /// Readers see it.
    Live,
    /// Readers saw it before; kept current, to be switched back to.
    Warm,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Building => "building",
            Role::Live => "live",
            Role::Warm => "warm",
        }
    }

    /// `None`: a role that only a newer host knows.
    pub fn from_word(word: &str) -> Option<Self> {
        [Role::Building, Role::Live, Role::Warm].into_iter().find(|role| role.as_str() == word)
    }
}

/// A generation as it stands.
#[derive(Debug, Clone)]
pub struct GenerationStatus {
    pub generation: Generation,
    pub role: Role,
    pub layout: Layout,
    /// The digest of the active component, and what it says about itself.
    pub active: String,
    pub descriptor: Descriptor,
    /// The views that show it to readers, the newest last.
    pub views: Vec<ViewSet>,
    /// It has come to the end of its topics once.
    pub caught_up: bool,
    /// It is fed from a file, and no host runs it.
    pub backfilling: bool,
}

impl GenerationStatus {
    /// The views that show all of it.
    pub fn newest_views(&self) -> Option<&ViewSet> {
        views::newest(&self.views, &self.layout)
    }

    /// Whether the generation has all that it is built from. A generation that a file is still being read into
    /// must not be shown to readers.
    pub fn is_fed(&self) -> Result<(), Refusal> {
        let Generation { projection, number, .. } = &self.generation;
        match self.backfilling {
            false => Ok(()),
            true => Err(Refusal::Backfilling { projection: projection.clone(), number: *number }),
        }
    }
}
