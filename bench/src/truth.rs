//! What the rows have to be at the end, by the events alone: a benchmark of programs that do not do
//! their work is worth nothing.
//!
//! Kafka keeps the events of a key in order, and nothing else. So of an order all is certain but its
//! customer's data, where the customer's own topics spoke of it: `plain` and `native` end with what
//! they heard last, and that is either what the order's last event carried, or what the customer's
//! last event said. `order-search` ends with the latter, always.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use projector_workload::{CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED, ORDER_CONFIRMED, Record};
use serde::Deserialize;
use serde_json::Value;

use crate::contender::Contender;
use crate::read_model::{OrderRow, ReadModel};

const SCHEMA_VERSION: u32 = 2;

#[derive(Default)]
pub(crate) struct Truth {
    /// The last event of each order, with the customer as it carried it.
    orders: HashMap<String, Expected>,
    countries: HashMap<String, String>,
    /// Mail address and name.
    profiles: HashMap<String, (String, String)>,
    /// How many orders were confirmed, those that were confirmed again included, and the cents of all.
    confirmed: (i64, i64),
}

struct Expected {
    row: OrderRow,
    items: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderConfirmed {
    schema_version: u32,
    occurred_at: String,
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
    items: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CountryChanged {
    customer_id: String,
    country: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileUpdated {
    customer_id: String,
    email: String,
    name: String,
}

impl Truth {
    pub(crate) fn of(records: &[Record]) -> Result<Truth> {
        let mut truth = Truth::default();
        for record in records {
            let payload = record.payload.as_deref().unwrap_or_default();
            if record.topic.ends_with(ORDER_CONFIRMED) {
                truth.order(serde_json::from_slice(payload)?)?;
            } else if record.topic.ends_with(CUSTOMER_COUNTRY_CHANGED) {
                let CountryChanged { customer_id, country } = serde_json::from_slice(payload)?;
                truth.countries.insert(customer_id, country);
            } else if record.topic.ends_with(CUSTOMER_PROFILE_UPDATED) {
                let ProfileUpdated { customer_id, email, name } = serde_json::from_slice(payload)?;
                truth.profiles.insert(customer_id, (email, name));
            }
        }
        Ok(truth)
    }

    fn order(&mut self, event: OrderConfirmed) -> Result<()> {
        let OrderConfirmed { schema_version, occurred_at, order } = event;
        if schema_version != SCHEMA_VERSION {
            return Ok(());
        }
        self.confirmed.0 += 1;
        self.confirmed.1 += order.total_cents;
        let confirmed_at = humantime::parse_rfc3339(&occurred_at)?.duration_since(std::time::UNIX_EPOCH)?;
        let row = OrderRow {
            order_id: order.id,
            customer_id: order.customer_id,
            customer_country: order.customer_country.unwrap_or_else(|| "unknown".into()),
            customer_email: order.customer_email,
            customer_name: order.customer_name,
            currency: order.currency,
            total_cents: order.total_cents,
            items: String::new(),
            confirmed_at: i64::try_from(confirmed_at.as_micros())?,
        };
        self.orders.insert(row.order_id.clone(), Expected { row, items: order.items });
        Ok(())
    }

    /// Compares every row that a contender left. Returns a digest of what must be the same for all
    /// that keep orders; `None` for the one that does not.
    pub(crate) fn check(&self, contender: Contender, read_model: &mut ReadModel) -> Result<Option<String>> {
        if contender == Contender::SalesByCountry {
            let sales = read_model.sales()?;
            ensure!(
                sales == self.confirmed,
                "orders and cents are {sales:?}, but by the events {:?}",
                self.confirmed
            );
            return Ok(None);
        }
        let rows = read_model.orders()?;
        ensure!(
            rows.len() == self.orders.len(),
            "there are {} orders, but by the events {}",
            rows.len(),
            self.orders.len()
        );
        for row in rows {
            self.check_order(contender, row)?;
        }
        read_model.orders_checksum().map(Some)
    }

    fn check_order(&self, contender: Contender, mut row: OrderRow) -> Result<()> {
        let expected = self.orders.get(&row.order_id);
        let Expected { row: carried, items } =
            expected.with_context(|| format!("order {} was never confirmed", row.order_id))?;
        let changed = self.countries.get(&row.customer_id);
        let updated =
            self.profiles.get(&row.customer_id).cloned().map(|(email, name)| (Some(email), Some(name)));
        let knows_the_customer = contender == Contender::OrderSearch;

        let country_is_right = changed == Some(&row.customer_country)
            || (row.customer_country == carried.customer_country
                && !(knows_the_customer && changed.is_some()));
        let profile = (row.customer_email.clone(), row.customer_name.clone());
        let profile_is_right = updated.as_ref() == Some(&profile)
            || (profile == (carried.customer_email.clone(), carried.customer_name.clone())
                && !(knows_the_customer && updated.is_some()));
        let items_are_right = serde_json::from_str::<Value>(&row.items).is_ok_and(|stored| stored == *items);
        if !(country_is_right && profile_is_right && items_are_right) {
            bail!(
                "an order is {row:?}; it carried {carried:?} with {items}; its customer's last country is {changed:?}, last profile {updated:?}"
            );
        }
        row.items.clear();
        row.customer_country.clone_from(&carried.customer_country);
        (row.customer_email, row.customer_name) =
            (carried.customer_email.clone(), carried.customer_name.clone());
        ensure!(row == *carried, "an order is {row:?}, but by the events {carried:?}");
        Ok(())
    }
}
