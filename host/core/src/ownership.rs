//! Who owns a projection's name: the team that signs its components, or the lock file. Pure.
//!
//! The signer of the first component of a name owns the name. The owner is stored with the projection, so that a second
//! team cannot replace the read model of the first.

use std::fmt;

/// Why a component may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// A team signed it; `listed`: the lock file has it as well.
    Team { name: String, listed: bool },
    /// The lock file has it, and no signature is required.
    Lock,
    /// Neither a signature nor a lock file is required.
    Nobody,
}

impl Signer {
    /// The owner of a name as it is stored: `team:checkout`, `lock` or none. The form never changes.
    pub fn owner(&self) -> Option<String> {
        match self {
            Signer::Team { name, .. } => Some(format!("team:{name}")),
            Signer::Lock => Some("lock".to_owned()),
            Signer::Nobody => None,
        }
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.owner().as_deref().unwrap_or("nobody"))
    }
}

/// The name belongs to another owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name belongs to {owner}, and this component is signed or listed by {signer}: {advice}")]
pub struct NameOwned {
    pub owner: String,
    pub signer: String,
    pub advice: String,
}

/// Whether a name that belongs to `owner` may run a component of `signer`.
///
/// A name without an owner may run any component, whose signer owns it then. A team's name stays with the team: only the
/// lock file, which lists this very component, can take it over, and only if no team is configured. A component of a name
/// that the lock file owns must be listed, even if a team signs it.
pub fn may_take_over(owner: Option<&str>, signer: &Signer) -> Result<(), NameOwned> {
    let Some(owner) = owner else { return Ok(()) };
    let allowed = match signer {
        Signer::Team { listed: true, .. } if owner == "lock" => true,
        Signer::Lock => owner == "lock" || owner.starts_with("team:"),
        signer => signer.owner().as_deref() == Some(owner),
    };
    if allowed {
        return Ok(());
    }
    let advice = match owner.strip_prefix("team:") {
        Some(team) => format!(
            "let {team} sign it (`plugins.teams.{team}` has to hold its key), or give the projection another name"
        ),
        None if owner == "lock" => {
            "list it in the lock file, which `plugins.lock` names, or give the projection another name".into()
        }
        None => "this host does not know such an owner; is it older than the one that wrote it?".into(),
    };
    Err(NameOwned { owner: owner.to_owned(), signer: signer.to_string(), advice })
}
