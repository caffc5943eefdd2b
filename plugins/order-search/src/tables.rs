//! The read model, and the writes to it that are not of a whole row.

use projector_sdk::prelude::*;

use crate::payloads::Item;

/// What readers ask: each confirmed order, with what is known of its customer now.
#[derive(Debug, Clone, PartialEq, Eq, Table)]
#[table(
    name = "order_search",
    index(customer_id),
    index(customer_country, confirmed_at),
    index(contains(items))
)]
pub struct OrderRow {
    #[key]
    pub order_id: String,
    pub customer_id: String,
    /// `unknown` until something is known.
    pub customer_country: String,
    pub customer_email: Option<String>,
    pub customer_name: Option<String>,
    pub currency: String,
    pub total_cents: i64,
    pub items: Json<Vec<Item>>,
    pub confirmed_at: Timestamp,
}

/// What this projection has heard of a customer, on the customer's own topics. Each field is null
/// until its topic has told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Table)]
#[table(name = "customer")]
pub struct Customer {
    #[key]
    pub customer_id: String,
    pub country: Option<String>,
    pub country_at: Option<Timestamp>,
    pub email: Option<String>,
    pub name: Option<String>,
    pub profile_at: Option<Timestamp>,
}

#[derive(Upsert)]
#[upsert(table = Customer)]
pub(crate) struct CustomerCountry {
    pub(crate) customer_id: String,
    pub(crate) country: String,
    pub(crate) country_at: Timestamp,
}

#[derive(Upsert)]
#[upsert(table = Customer)]
pub(crate) struct CustomerProfile {
    pub(crate) customer_id: String,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) profile_at: Timestamp,
}

#[derive(Update)]
#[update(table = OrderRow, by(customer_id))]
pub(crate) struct CountryOfOrders {
    pub(crate) customer_id: String,
    pub(crate) customer_country: String,
}

#[derive(Update)]
#[update(table = OrderRow, by(customer_id))]
pub(crate) struct ProfileOfOrders {
    pub(crate) customer_id: String,
    pub(crate) customer_email: String,
    pub(crate) customer_name: String,
}
