//! `[admin]`: the HTTP API for operators and their tools.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

use super::text::Text;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Admin {
    /// The address to listen on, for example `127.0.0.1:9700`. The API has no TLS: put a proxy with TLS in
    /// front of it.
    pub listen: SocketAddr,
    /// Clients that may send requests, by name.
    #[serde(default)]
    pub tokens: BTreeMap<String, Token>,
}

/// A client's secret, and what the client may do.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Token {
    pub token: Text,
    #[serde(default)]
    pub may: May,
}

/// What a token permits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum May {
    /// Read requests only.
    #[default]
    Read,
    /// Also to pause, resume, skip, retry and discard.
    Operate,
}
