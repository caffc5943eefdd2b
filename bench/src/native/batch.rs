//! The events of one transaction, folded.
//!
//! One by one, an order would replace its row, and a customer's change would update the rows that
//! are there at that moment. A batch ends with the same rows in three statements: the last country
//! and the last profile of each customer update the stored rows first; then the orders replace
//! theirs. A change that comes after an order of the same batch is applied to that order here, in
//! memory; one that comes before an order is overwritten by it, as it would be one by one.

use std::collections::HashMap;

use crate::event::{CountryChanged, Event, OrderRow, ProfileUpdated};

#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) events: u64,
    /// The last of each order.
    pub(crate) orders: Vec<OrderRow>,
    /// The last country of each customer.
    pub(crate) countries: HashMap<String, String>,
    /// The last profile of each customer.
    pub(crate) profiles: HashMap<String, ProfileUpdated>,
    /// By the topic's place in the consumer's list, and the partition.
    pub(crate) offsets: HashMap<(usize, i32), Advance>,
    by_order: HashMap<String, usize>,
    /// The places of a customer's orders, and of those that were this customer's before.
    by_customer: HashMap<String, Vec<usize>>,
}

/// How a batch moves a partition's offset.
pub(crate) struct Advance {
    pub(crate) topic: String,
    /// What is stored now, if nobody else was here.
    pub(crate) expected: i64,
    pub(crate) next: i64,
}

impl Batch {
    pub(crate) fn push(&mut self, event: Event) {
        self.events += 1;
        match event {
            Event::Order(order) => self.order(order),
            Event::Country(change) => self.country(change),
            Event::Profile(change) => self.profile(change),
            Event::Old => {}
        }
    }

    fn order(&mut self, order: OrderRow) {
        match self.by_order.get(&order.order_id) {
            Some(&at) => {
                if self.orders[at].customer_id != order.customer_id {
                    self.by_customer.entry(order.customer_id.clone()).or_default().push(at);
                }
                self.orders[at] = order;
            }
            None => {
                let at = self.orders.len();
                self.by_order.insert(order.order_id.clone(), at);
                self.by_customer.entry(order.customer_id.clone()).or_default().push(at);
                self.orders.push(order);
            }
        }
    }

    fn country(&mut self, change: CountryChanged) {
        self.for_orders_of(&change.customer_id, |order| order.customer_country.clone_from(&change.country));
        self.countries.insert(change.customer_id, change.country);
    }

    fn profile(&mut self, change: ProfileUpdated) {
        self.for_orders_of(&change.customer_id, |order| {
            order.customer_email = Some(change.email.clone());
            order.customer_name = Some(change.name.clone());
        });
        self.profiles.insert(change.customer_id.clone(), change);
    }

    fn for_orders_of(&mut self, customer: &str, mut update: impl FnMut(&mut OrderRow)) {
        for at in self.by_customer.get(customer).into_iter().flatten() {
            let order = &mut self.orders[*at];
            if order.customer_id == customer {
                update(order);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(id: &str, customer: &str, country: &str) -> Event {
        Event::Order(OrderRow {
            order_id: id.into(),
            customer_id: customer.into(),
            customer_country: country.into(),
            customer_email: None,
            customer_name: None,
            currency: "EUR".into(),
            total_cents: 0,
            items: "[]".into(),
            confirmed_at: 0,
        })
    }

    fn country(customer: &str, country: &str) -> Event {
        Event::Country(CountryChanged { customer_id: customer.into(), country: country.into() })
    }

    #[test]
    fn a_batch_ends_as_its_events_would_one_by_one() {
        let mut batch = Batch::default();
        for event in [
            country("c1", "AT"),
            order("o1", "c1", "DE"),
            order("o2", "c2", "DE"),
            country("c1", "FR"),
            order("o3", "c1", "DE"),
            order("o2", "c1", "NL"),
            country("c2", "PL"),
        ] {
            batch.push(event);
        }
        let rows: Vec<_> = batch.orders.iter().map(|row| (&*row.order_id, &*row.customer_country)).collect();
        assert_eq!(rows, [("o1", "FR"), ("o2", "NL"), ("o3", "DE")]);
        assert_eq!(batch.countries, HashMap::from([("c1".into(), "FR".into()), ("c2".into(), "PL".into())]));
        assert_eq!(batch.events, 7);
    }
}
