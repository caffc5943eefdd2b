//! Promises that need a real Kafka. xtask knows these tests by this module's name.

mod admin;
mod boundaries;
mod brokers;
mod by_hand;
mod catch_up;
mod clocks;
mod control;
mod database;
mod dead_letters;
mod duplicates;
mod exactly_once;
mod lanes;
mod lineage;
mod locks;
mod log_identity;
mod order_between_topics;
mod parking;
mod payloads;
mod rebalance;
mod refused;
mod rejections;
mod reload;
mod sandbox;
mod stopping;
mod too_large;
mod transactions;
