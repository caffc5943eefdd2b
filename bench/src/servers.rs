//! The Kafka and the Postgres that all contenders share.

use std::env;

use anyhow::Result;
use projector_test_servers::{Database, Kafka, Postgres};

/// Instead of the small ones that suit tests; a commit is flushed to disk.
pub(crate) const POSTGRES_SETTINGS: [(&str, &str); 3] =
    [("shared_buffers", "1GB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "30min")];

/// Those started here end when this is dropped, at the latest with this process.
pub(crate) struct Servers {
    pub(crate) brokers: String,
    pub(crate) database: Database,
    /// The servers' settings, for the report.
    pub(crate) postgres_settings: String,
    _kafka: Option<Kafka>,
    _postgres: Option<Postgres>,
}

impl Servers {
    /// Those at KAFKA_BROKERS and DATABASE_URL, and new ones for what is not set.
    pub(crate) fn provide() -> Result<Servers> {
        let (brokers, kafka) = match env::var("KAFKA_BROKERS") {
            Ok(brokers) => (brokers, None),
            Err(_) => {
                let kafka = Kafka::start()?;
                (kafka.bootstrap(), Some(kafka))
            }
        };
        let (database, postgres, postgres_settings) = match env::var_os("DATABASE_URL") {
            Some(_) => (Postgres::shared().clone(), None, "the one at DATABASE_URL".to_owned()),
            None => {
                let postgres = Postgres::start_with(&POSTGRES_SETTINGS)?;
                let settings = POSTGRES_SETTINGS.map(|(name, value)| format!("{name} = {value}")).join(", ");
                (postgres.clone(), Some(postgres), settings)
            }
        };
        eprintln!("Kafka: {brokers}; Postgres: {}", database.url());
        Ok(Servers { brokers, database, postgres_settings, _kafka: kafka, _postgres: postgres })
    }
}
