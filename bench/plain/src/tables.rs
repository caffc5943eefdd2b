//! The read model: the one table that readers of `order-search` ask, with the same indexes.

use projector_sdk::prelude::*;

use crate::payloads::Item;

#[derive(Table)]
#[table(
    name = "order_search",
    index(customer_id),
    index(customer_country, confirmed_at),
    index(contains(items))
)]
pub(crate) struct OrderRow {
    #[key]
    pub(crate) order_id: String,
    pub(crate) customer_id: String,
    /// `unknown` if the order does not say.
    pub(crate) customer_country: String,
    pub(crate) customer_email: Option<String>,
    pub(crate) customer_name: Option<String>,
    pub(crate) currency: String,
    pub(crate) total_cents: i64,
    pub(crate) items: Json<Vec<Item>>,
    pub(crate) confirmed_at: Timestamp,
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
