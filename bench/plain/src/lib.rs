//! `order-search` as a team writes it that has not thought about the order between topics: orders
//! are stored with the customer that they carry, and a customer's change updates the orders that
//! are there already. No copy of the customers, and nothing is ever looked up.
//!
//! An order that is heard after the change keeps what it carried. That is wrong, but it is exactly
//! what the benchmark's hand-written program does, and so the two can be compared.

mod payloads;
mod tables;

use std::cmp::Ordering;

use projector_sdk::prelude::*;

use payloads::{CountryChanged, Envelope, OrderConfirmed, ProfileUpdated};
use tables::{CountryOfOrders, OrderRow, ProfileOfOrders};

const SCHEMA_VERSION: u32 = 2;
const CURRENCIES: [&str; 3] = ["USD", "EUR", "GBP"];
const UNKNOWN_COUNTRY: &str = "unknown";

pub struct OrderSearchPlain;

#[projection(
    name = "order-search-plain",
    revision = 1,
    ignores("old-schema" = "schemaVersion is below 2: the order comes again in the current one"),
    rejects(
        "unknown-schema" = "schemaVersion is above 2, which this version of the plugin cannot read",
        "unknown-currency" = "the currency is none of USD, EUR and GBP"
    )
)]
impl OrderSearchPlain {
    #[on("order.confirmed.v2", writes(OrderRow))]
    fn order_confirmed(event: Event<Unread>, cx: &mut Context<Self>) -> Outcome {
        let OrderConfirmed { occurred_at, order, .. } = Self::current(event.payload)?;
        if !CURRENCIES.contains(&order.currency.as_str()) {
            return cx.reject("unknown-currency", order.currency);
        }
        cx.write(OrderRow {
            order_id: order.id,
            customer_id: order.customer_id,
            customer_country: order.customer_country.unwrap_or_else(|| UNKNOWN_COUNTRY.into()),
            customer_email: order.customer_email,
            customer_name: order.customer_name,
            currency: order.currency,
            total_cents: order.total_cents,
            items: Json(order.items),
            confirmed_at: occurred_at,
        });
        Ok(())
    }

    #[on("customer.country.changed.v1", writes(CountryOfOrders))]
    fn country_changed(event: Event<CountryChanged>, cx: &mut Context<Self>) -> Outcome {
        let CountryChanged { customer_id, country } = event.payload;
        cx.write(CountryOfOrders { customer_id, customer_country: country });
        Ok(())
    }

    #[on("customer.profile.updated.v1", writes(ProfileOfOrders))]
    fn profile_updated(event: Event<ProfileUpdated>, cx: &mut Context<Self>) -> Outcome {
        let ProfileUpdated { customer_id, email, name } = event.payload;
        cx.write(ProfileOfOrders { customer_id, customer_email: email, customer_name: name });
        Ok(())
    }

    /// Reads an order of the current schema. One of another schema need not have its fields, so
    /// what cannot be read is asked for its version before it is called bad.
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
