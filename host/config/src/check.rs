//! Refuses settings of different tables that contradict each other.

use super::Config;
use super::error::Problem;
use super::plugins::Team;

impl Config {
    pub(super) fn check(&self) -> Result<(), Problem> {
        self.kafka.check()?;
        self.check_teams()?;
        self.check_stores()
    }

    /// Each team has a key of its own.
    fn check_teams(&self) -> Result<(), Problem> {
        let mut checked: Vec<(&String, &Team)> = Vec::new();
        for (name, team) in &self.plugins.teams {
            if let Some((other, _)) = checked.iter().find(|(_, other)| other.key == team.key) {
                let message = format!(
                    "plugins.teams.{name}.key is the same as that of plugins.teams.{other}, so a signature would not identify the team: give each team a key of its own"
                );
                return Err(Problem::of_path(["plugins", "teams", name].map(str::to_owned).into(), message));
            }
            checked.push((name, team));
        }
        Ok(())
    }

    /// A projection's store is one of `[stores]`.
    fn check_stores(&self) -> Result<(), Problem> {
        for (name, projection) in &self.projections {
            if let Some(store) = &projection.store
                && !self.stores.contains_key(&**store)
            {
                let known: Vec<_> = self.stores.keys().map(|known| format!("`{known}`")).collect();
                let message = format!(
                    "projections.{name}.store: unknown store `{}`, expected one of {}",
                    &**store,
                    known.join(", ")
                );
                let key = ["projections", name, "store"].map(str::to_owned).into();
                return Err(Problem::of_path(key, message));
            }
        }
        Ok(())
    }
}
