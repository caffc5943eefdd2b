//! Promises that need a real Kafka. xtask knows these tests by this module's name.

mod exactly_once;
mod order_between_topics;
mod rebalance;
