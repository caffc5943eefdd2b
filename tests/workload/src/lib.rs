//! The events of the article's example, made up from a seed, and what it takes to get them into a
//! Kafka: orders are confirmed, customers move and change their profiles.
//!
//! ```no_run
//! use std::time::SystemTime;
//! use projector_workload::{Publisher, Workload, topics};
//!
//! # fn main() -> anyhow::Result<()> {
//! let workload = Workload::new(42, 20_000, SystemTime::now());
//! topics::create("127.0.0.1:9092", &workload.topics(4))?;
//! let records: Vec<_> = workload.records().collect();
//! let positions = Publisher::new("127.0.0.1:9092").publish(&records)?;
//! # Ok(())
//! # }
//! ```

pub mod topics;

mod catalogue;
mod events;
mod export;
mod generate;
mod publish;
mod record;
mod shape;

pub use export::write_json_lines;
pub use generate::{
    CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED, Mix, ORDER_CONFIRMED, Records, Workload,
};
pub use publish::{Position, Publisher, Turn};
pub use record::Record;
pub use shape::{Customers, Popularity, Shape};
