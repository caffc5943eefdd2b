//! The payloads of the events. Fields that this projection does not need are left out.

use projector_sdk::prelude::*;
use serde::{Deserialize, Serialize};

/// The fields that order events of every schema have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Envelope {
    pub(crate) schema_version: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OrderConfirmed {
    pub(crate) schema_version: u32,
    pub(crate) occurred_at: Timestamp,
    pub(crate) order: Order,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) customer_id: String,
    pub(crate) customer_email: Option<String>,
    pub(crate) customer_name: Option<String>,
    pub(crate) customer_country: Option<String>,
    pub(crate) currency: String,
    pub(crate) total_cents: i64,
    pub(crate) items: Vec<Item>,
}

/// One line of an order, in the event and in the column `items`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    pub sku: String,
    pub qty: i64,
    pub price_cents: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CountryChanged {
    pub(crate) customer_id: String,
    pub(crate) country: String,
    pub(crate) occurred_at: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProfileUpdated {
    pub(crate) customer_id: String,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) occurred_at: Timestamp,
}
