//! The number and the total of orders, by country, currency and day.
//!
//! Every event adds to the stored sums, so no write is idempotent. An event that is applied twice, or not at all, makes the
//! sums wrong. Only the host's exactly-once guarantee keeps them right.

use std::cmp::Ordering;

use projector_sdk::prelude::*;
use serde::Deserialize;

/// The orders of one day, country and currency. The country is the one that the order event carries.
#[derive(Debug, Clone, PartialEq, Eq, Table)]
#[table(name = "sales_by_country")]
pub struct Sales {
    /// `unknown` if the order carries no country.
    #[key]
    pub country: String,
    /// In UTC.
    #[key]
    pub day: Date,
    #[key]
    pub currency: String,
    pub orders: i64,
    pub total_cents: i64,
}

#[derive(Upsert)]
#[upsert(table = Sales)]
struct Sale {
    country: String,
    day: Date,
    currency: String,
    #[operation(add)]
    orders: i64,
    #[operation(add)]
    total_cents: i64,
}

/// The fields that order events of every schema have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    schema_version: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderConfirmed {
    schema_version: u32,
    occurred_at: Timestamp,
    order: Order,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    customer_country: Option<String>,
    currency: String,
    total_cents: i64,
}

const SCHEMA_VERSION: u32 = 2;

pub struct SalesByCountry;

#[projection(
    name = "sales-by-country",
    revision = 1,
    ignores("old-schema" = "schemaVersion is below 2: the order comes again in the current one"),
    rejects("unknown-schema" = "schemaVersion is above 2, which this version of the plugin cannot read")
)]
impl SalesByCountry {
    #[on("order.confirmed.v2", writes(Sale))]
    fn order_confirmed(event: Event<Unread>, cx: &mut Context<Self>) -> Outcome {
        let OrderConfirmed { occurred_at, order, .. } = Self::current(event.payload)?;
        cx.write(Sale {
            country: order.customer_country.unwrap_or_else(|| "unknown".into()),
            day: occurred_at.date(),
            currency: order.currency,
            orders: 1,
            total_cents: order.total_cents,
        });
        Ok(())
    }

    /// Reads an order of the current schema. An order of another schema may have other fields. So if the order cannot be
    /// read, its schema version decides first whether it is ignored.
    fn current(payload: Unread) -> Result<OrderConfirmed, Stop> {
        let order = payload.json::<OrderConfirmed>();
        let schema_version = match &order {
            Ok(order) => order.schema_version,
            Err(_) => payload.json::<Envelope>()?.schema_version,
        };
        let version = format_args!("schemaVersion {schema_version}");
        match schema_version.cmp(&SCHEMA_VERSION) {
            Ordering::Less => Err(Stop::ignore("old-schema", version)),
            Ordering::Equal => order,
            Ordering::Greater => Err(Stop::reject("unknown-schema", version)),
        }
    }
}
