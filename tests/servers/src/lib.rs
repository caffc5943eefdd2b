//! Real servers for tests: an Apache Kafka and a Postgres of one's own, on free loopback ports.
//!
//! Every server started here
//! - has its own data directory, port and identity, so that tests never meet;
//! - can be killed, stopped and started again on the same port with the same data;
//! - dies with the process that started it, however that process ends, and its data directory is
//!   removed then or, if that was not possible, when the next server is started.
//!
//! What is missing on the machine is installed when that can be done (see [`packages`]), otherwise
//! the error names it and the command that installs it.
//!
//! Tests that need no server of their own use [`Kafka::shared`], `SecuredKafka::shared` and
//! [`Postgres::shared`].

pub mod lifeline;
pub mod packages;

mod directory;
mod kafka;
mod port;
mod postgres;
mod process;

pub use kafka::{Authority, ClientCertificate, Kafka, KafkaDistribution};
#[cfg(feature = "secured")]
pub use kafka::{Listener, Resource, Right, SecuredKafka, User, token};
pub use postgres::{Certificate, Database, Issuer, PgBouncer, Postgres};
