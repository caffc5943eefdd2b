//! Promises that need a real Kafka. xtask knows these tests by this module's name.

mod brokers;
mod database;
mod exactly_once;
mod log_identity;
mod order_between_topics;
mod rebalance;
mod stopping;
mod transactions;
