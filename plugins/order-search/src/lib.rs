//! Orders together with their customers' data, shaped to one question: *all orders of customers in Germany that contain a
//! yoga mat, of the last 30 days*.
//!
//! An order event carries the customer's data as of the confirmation. The customer's own topics are the authority, and
//! their events may come before or after the order. So this projection keeps its own copy of each customer:
//!
//! - An order takes the customer's data from the copy, else from the order event, else `unknown` for the country.
//! - A customer event updates the copy, and all stored orders of the customer.
//!
//! So the rows end up the same, whatever the order between the topics is.

mod payloads;
mod tables;

use std::cmp::Ordering;

use projector_sdk::prelude::*;

pub use payloads::Item;
use payloads::{CountryChanged, Envelope, OrderConfirmed, ProfileUpdated};
use tables::{CountryOfOrders, CustomerCountry, CustomerProfile, ProfileOfOrders};
pub use tables::{Customer, OrderRow};

const SCHEMA_VERSION: u32 = 2;
const CURRENCIES: [&str; 3] = ["USD", "EUR", "GBP"];
const UNKNOWN_COUNTRY: &str = "unknown";

pub struct OrderSearch;

#[projection(
    name = "order-search",
    revision = 1,
    ignores("old-schema" = "schemaVersion is below 2: the order comes again in the current one"),
    rejects(
        "unknown-schema" = "schemaVersion is above 2, which this version of the plugin cannot read",
        "unknown-currency" = "the currency is not USD, EUR or GBP"
    )
)]
impl OrderSearch {
    #[on("order.confirmed.v2", writes(OrderRow), reads(Customer))]
    fn order_confirmed(event: Event<Unread>, cx: &mut Context<Self>) -> Outcome {
        let OrderConfirmed { occurred_at, order, .. } = Self::current(event.payload)?;
        if !CURRENCIES.contains(&order.currency.as_str()) {
            return cx.reject("unknown-currency", order.currency);
        }
        let known = cx.get::<Customer>(&order.customer_id)?.unwrap_or_default();
        let carried_country = order.customer_country.unwrap_or_else(|| UNKNOWN_COUNTRY.into());
        cx.write(OrderRow {
            order_id: order.id,
            customer_id: order.customer_id,
            customer_country: known.country.unwrap_or(carried_country),
            customer_email: known.email.or(order.customer_email),
            customer_name: known.name.or(order.customer_name),
            currency: order.currency,
            total_cents: order.total_cents,
            items: Json(order.items),
            confirmed_at: occurred_at,
        });
        Ok(())
    }

    #[on("customer.country.changed.v1", writes(CustomerCountry, CountryOfOrders))]
    fn country_changed(event: Event<CountryChanged>, cx: &mut Context<Self>) -> Outcome {
        let CountryChanged { customer_id, country, occurred_at } = event.payload;
        cx.write(CustomerCountry {
            customer_id: customer_id.clone(),
            country: country.clone(),
            country_at: occurred_at,
        });
        cx.write(CountryOfOrders { customer_id, customer_country: country });
        Ok(())
    }

    #[on("customer.profile.updated.v1", writes(CustomerProfile, ProfileOfOrders))]
    fn profile_updated(event: Event<ProfileUpdated>, cx: &mut Context<Self>) -> Outcome {
        let ProfileUpdated { customer_id, email, name, occurred_at } = event.payload;
        cx.write(CustomerProfile {
            customer_id: customer_id.clone(),
            email: email.clone(),
            name: name.clone(),
            profile_at: occurred_at,
        });
        cx.write(ProfileOfOrders { customer_id, customer_email: email, customer_name: name });
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
