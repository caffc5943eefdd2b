//! The tables of the read model, and the statements that write only some of their columns.

use projector_sdk::prelude::*;

use crate::payloads::Item;

/// The table that readers query: each confirmed order, with the current data of its customer.
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
    /// `unknown` as long as no event has carried the country.
    pub customer_country: String,
    pub customer_email: Option<String>,
    pub customer_name: Option<String>,
    pub currency: String,
    pub total_cents: i64,
    pub items: Json<Vec<Item>>,
    pub confirmed_at: Timestamp,
}

/// This projection's copy of a customer, from the customer's own topics. A column is null until its topic has had an event
/// for the customer.
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
