//! The migrations of the host's own tables, built into the program.
//!
//! Why: sqlx has a macro for this, but to build it, cargo compiles sqlx with both databases once more.
//!
//! Invariant: a migration has the version, the description and the checksum that sqlx gives its file. Databases store them.

use std::sync::LazyLock;

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// The files of one database, as pairs of name and text. Both databases have files of the same names.
macro_rules! files {
    ($database:literal) => {
        files!($database:
            "0001_host"
            "0002_event_id"
            "0003_catch_up"
            "0004_failures"
            "0005_deployments"
            "0007_source_topics"
            "0008_start"
            "0009_duplicates"
            "0010_plans"
            "0011_record_times"
            "0012_waiting"
            "0014_views"
            "0015_growth"
            "0016_upgrades"
            "0017_database_identity"
        )
    };
    ($database:literal: $($name:literal)*) => {
        [$(($name, include_str!(concat!("../../../migrations/", $database, "/", $name, ".sql")))),*]
    };
}

pub static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| migrator(&files!("postgres")));
pub static SQLITE: LazyLock<Migrator> = LazyLock::new(|| migrator(&files!("sqlite")));

fn migrator(files: &[(&str, &'static str)]) -> Migrator {
    Migrator::with_migrations(files.iter().map(|(name, sql)| migration(name, sql)).collect())
}

/// `name` is a version and a description, as in `0001_host`.
fn migration(name: &str, sql: &'static str) -> Migration {
    let (version, description) = name.split_once('_').expect("a version and a description");
    Migration::new(
        version.parse().expect("the version is a number"),
        description.replace('_', " ").into(),
        MigrationType::Simple,
        SqlStr::from_static(sql),
        false,
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// All that a database stores of a migration, and all that decides how it is run.
    fn shown(migrator: &Migrator) -> Vec<String> {
        let shown = |it: &Migration| {
            let checksum = hex::encode(&*it.checksum);
            format!("{} {} {:?} {} {checksum}", it.version, it.description, it.migration_type, it.no_tx)
        };
        migrator.iter().map(shown).collect()
    }

    #[tokio::test]
    async fn the_migrations_are_those_that_sqlx_reads_from_the_directories() {
        for (built_in, database) in [(&POSTGRES, "postgres"), (&SQLITE, "sqlite")] {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations").join(database);
            let read = Migrator::new(directory).await.expect("a directory of migrations");
            assert_eq!(shown(built_in), shown(&read), "{database}: every file is named in this module");
        }
    }
}
