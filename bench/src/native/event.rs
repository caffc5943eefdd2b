//! The events, from their JSON.

use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

const SCHEMA_VERSION: u32 = 2;
const CURRENCIES: [&str; 3] = ["USD", "EUR", "GBP"];
const UNKNOWN_COUNTRY: &str = "unknown";

/// Which topic an event comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    OrderConfirmed,
    CountryChanged,
    ProfileUpdated,
}

pub(crate) enum Event {
    Order(OrderRow),
    Country(CountryChanged),
    Profile(ProfileUpdated),
    /// An order of an older schema: it comes again in the current one.
    Old,
}

/// A row of the read model.
pub(crate) struct OrderRow {
    pub(crate) order_id: String,
    pub(crate) customer_id: String,
    pub(crate) customer_country: String,
    pub(crate) customer_email: Option<String>,
    pub(crate) customer_name: Option<String>,
    pub(crate) currency: String,
    pub(crate) total_cents: i64,
    /// JSON.
    pub(crate) items: String,
    /// Microseconds since 1970.
    pub(crate) confirmed_at: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CountryChanged {
    pub(crate) customer_id: String,
    pub(crate) country: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProfileUpdated {
    pub(crate) customer_id: String,
    pub(crate) email: String,
    pub(crate) name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    schema_version: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderConfirmed<'a> {
    schema_version: u32,
    occurred_at: &'a str,
    order: Order,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    id: String,
    customer_id: String,
    customer_email: Option<String>,
    customer_name: Option<String>,
    customer_country: Option<String>,
    currency: String,
    total_cents: i64,
    items: Vec<Item>,
}

/// Read and written again, so that a line of an order which is none is noticed here.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    sku: String,
    qty: i64,
    price_cents: i64,
}

impl Event {
    /// What cannot be understood is an error. There are no dead letters here: a person has to look.
    pub(crate) fn decode(kind: Kind, payload: &[u8]) -> Result<Event> {
        Ok(match kind {
            Kind::OrderConfirmed => order(payload)?.map_or(Event::Old, Event::Order),
            Kind::CountryChanged => Event::Country(serde_json::from_slice(payload)?),
            Kind::ProfileUpdated => Event::Profile(serde_json::from_slice(payload)?),
        })
    }
}

/// `None`: of an older schema, which need not have the current one's fields.
fn order(payload: &[u8]) -> Result<Option<OrderRow>> {
    let OrderConfirmed { schema_version, occurred_at, order } = match serde_json::from_slice(payload) {
        Ok(order) => order,
        Err(error) => match serde_json::from_slice::<Envelope>(payload) {
            Ok(envelope) if envelope.schema_version < SCHEMA_VERSION => return Ok(None),
            _ => return Err(error.into()),
        },
    };
    if schema_version < SCHEMA_VERSION {
        return Ok(None);
    }
    if schema_version > SCHEMA_VERSION {
        bail!("schemaVersion {schema_version} is unknown");
    }
    if !CURRENCIES.contains(&order.currency.as_str()) {
        bail!("currency {} is unknown", order.currency);
    }
    let occurred_at = humantime::parse_rfc3339(occurred_at).context("occurredAt")?;
    let confirmed_at = occurred_at.duration_since(UNIX_EPOCH).context("occurredAt")?.as_micros();
    Ok(Some(OrderRow {
        order_id: order.id,
        customer_id: order.customer_id,
        customer_country: order.customer_country.unwrap_or_else(|| UNKNOWN_COUNTRY.into()),
        customer_email: order.customer_email,
        customer_name: order.customer_name,
        currency: order.currency,
        total_cents: order.total_cents,
        items: serde_json::to_string(&order.items)?,
        confirmed_at: i64::try_from(confirmed_at).context("occurredAt")?,
    }))
}
