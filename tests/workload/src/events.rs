//! The payloads of the three topics, field by field as the services write them.

use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OrderConfirmed<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) schema_version: u32,
    pub(crate) occurred_at: &'a str,
    pub(crate) order: Order<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Order<'a> {
    pub(crate) id: &'a str,
    pub(crate) customer_id: &'a str,
    pub(crate) customer_email: &'a str,
    pub(crate) customer_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) customer_country: Option<&'a str>,
    pub(crate) currency: &'static str,
    pub(crate) total_cents: i64,
    pub(crate) items: Vec<Item>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Item {
    pub(crate) sku: &'static str,
    pub(crate) qty: i64,
    pub(crate) price_cents: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CustomerCountryChanged<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) occurred_at: &'a str,
    pub(crate) customer_id: &'a str,
    pub(crate) country: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CustomerProfileUpdated<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) occurred_at: &'a str,
    pub(crate) customer_id: &'a str,
    pub(crate) email: &'a str,
    pub(crate) name: &'a str,
}
