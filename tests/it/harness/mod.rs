//! What the proofs stand on: the real host as a process, a Kafka, a database, and a fold that
//! shares nothing with the host.

mod compare;
mod component;
mod dead_letters;
mod eventually;
mod fold;
mod gates;
mod group;
mod guests;
mod host;
mod host_log;
mod http;
mod lossy_proxy;
mod malice;
mod platform;
mod plugins;
mod quiet_proxy;
mod raw_record;
mod read_model;
mod seed;
mod session;
mod snippet;
mod status;
pub(crate) mod topic;
mod views;

pub(crate) use compare::{Rows, assert_same, difference};
pub(crate) use component::{Argument, Guest, WIT, component, contract};
pub(crate) use dead_letters::{DeadLetter, assert_closed, dead_letters, rows};
pub(crate) use eventually::{PATIENCE, eventually};
pub(crate) use fold::{Expected, fold};
pub(crate) use gates::{GATES, Gates, Step, step};
pub(crate) use group::put_out;
pub(crate) use guests::{ORDER_SEARCH, SALES_BY_COUNTRY, event, guest, load};
pub(crate) use host::Host;
pub(crate) use host_log::{HostLog, Line, Tally};
pub(crate) use http::request;
pub(crate) use lossy_proxy::LossyProxy;
pub(crate) use malice::{bomb, describing, descriptor, malicious};
pub(crate) use platform::Platform;
pub(crate) use plugins::Plugins;
pub(crate) use quiet_proxy::{QuietProxy, Silence};
pub(crate) use raw_record::publish_with_header;
pub(crate) use read_model::ReadModel;
pub(crate) use seed::seed;
pub(crate) use session::Session;
pub(crate) use status::{Partition, Projection, check_books};
