//! A shop's history, made up from a seed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::Record;
use crate::catalogue::{ARTICLES, COUNTRIES, FAMILY_NAMES, GIVEN_NAMES, currency_in};
use crate::events::{CustomerCountryChanged, CustomerProfileUpdated, Item, Order, OrderConfirmed};
use crate::shape::{Customers, Shape};
use crate::topics::Topic;

pub const ORDER_CONFIRMED: &str = "order.confirmed.v2";
pub const CUSTOMER_COUNTRY_CHANGED: &str = "customer.country.changed.v1";
pub const CUSTOMER_PROFILE_UPDATED: &str = "customer.profile.updated.v1";

/// The history reaches this far back.
const SPAN: Duration = Duration::from_secs(60 * 24 * 60 * 60);

/// An order comes from somebody new, or a customer's topic speaks of somebody who never ordered.
const NEW_CUSTOMER: f64 = 0.15;
const OLD_SCHEMA: f64 = 0.01;
const ORDER_WITHOUT_COUNTRY: f64 = 0.1;
/// The order service carries what the customer entered at the first order, however long ago.
const STALE_CUSTOMER_IN_ORDER: f64 = 0.3;

/// How the three topics share the events, in parts of their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    pub orders: u32,
    pub country_changes: u32,
    pub profile_updates: u32,
}

impl Default for Mix {
    fn default() -> Mix {
        Mix { orders: 85, country_changes: 10, profile_updates: 5 }
    }
}

/// Which history to make up. The same values give the same records, byte for byte.
#[derive(Debug, Clone)]
pub struct Workload {
    pub seed: u64,
    pub events: usize,
    /// No event is younger; the oldest is 60 days older. Brokers refuse what lies more than an hour
    /// in their future.
    pub now: SystemTime,
    pub mix: Mix,
    pub shape: Shape,
    /// Put before the name of every topic, so that workloads can share a broker.
    pub topic_prefix: String,
}

impl Workload {
    pub fn new(seed: u64, events: usize, now: SystemTime) -> Workload {
        Workload {
            seed,
            events,
            now,
            mix: Mix::default(),
            shape: Shape::default(),
            topic_prefix: String::new(),
        }
    }

    /// The three topics, to be created. They keep records of any age.
    pub fn topics(&self, partitions: i32) -> Vec<Topic> {
        [ORDER_CONFIRMED, CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED]
            .map(|name| {
                Topic::new(format!("{}{name}", self.topic_prefix), partitions).setting("retention.ms", "-1")
            })
            .into()
    }

    /// The history, in the order in which it happened.
    pub fn records(&self) -> Records {
        Records {
            rng: StdRng::seed_from_u64(self.seed),
            workload: self.clone(),
            next: 0,
            customers: Vec::new(),
            orders: Vec::new(),
        }
    }
}

/// See [`Workload::records`].
pub struct Records {
    rng: StdRng,
    workload: Workload,
    next: usize,
    customers: Vec<Customer>,
    /// The customer of every order, by the order's number.
    orders: Vec<usize>,
}

struct Customer {
    id: String,
    profile: Profile,
    /// What the order service may still believe.
    first_profile: Profile,
    updates: u32,
}

#[derive(Clone)]
struct Profile {
    country: &'static str,
    email: String,
    name: String,
}

/// What every event carries beside its own matter.
struct Envelope {
    event_id: String,
    trace_id: String,
    occurred_at: String,
    timestamp_ms: i64,
}

impl Iterator for Records {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.next == self.workload.events {
            return None;
        }
        let envelope = self.envelope();
        self.next += 1;
        let Mix { orders, country_changes, profile_updates } = self.workload.mix;
        let drawn = self.rng.random_range(0..orders + country_changes + profile_updates);
        Some(if drawn < orders {
            self.order_confirmed(&envelope)
        } else if drawn < orders + country_changes {
            self.country_changed(&envelope)
        } else {
            self.profile_updated(&envelope)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.workload.events - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Records {}

impl Records {
    /// The span is cut into equal slices, one an event; the event happens somewhere in its slice.
    fn envelope(&mut self) -> Envelope {
        let slice = SPAN / u32::try_from(self.workload.events).unwrap_or(u32::MAX);
        let slices_left = u32::try_from(self.workload.events - self.next).unwrap_or(u32::MAX);
        let occurred_at =
            self.workload.now - slice * slices_left + slice.mul_f64(self.rng.random_range(0.0..1.0));
        let event_id = uuid::Builder::from_random_bytes(self.rng.random()).into_uuid();
        let timestamp = occurred_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Envelope {
            event_id: event_id.to_string(),
            trace_id: format!("{:032x}", self.rng.random::<u128>()),
            occurred_at: humantime::format_rfc3339_millis(occurred_at).to_string(),
            timestamp_ms: i64::try_from(timestamp.as_millis()).unwrap_or(i64::MAX),
        }
    }

    fn order_confirmed(&mut self, envelope: &Envelope) -> Record {
        let Shape { confirmed_again, popularity, .. } = self.workload.shape;
        let again = !self.orders.is_empty() && self.rng.random_bool(confirmed_again);
        let number = if again {
            popularity.draw(self.orders.len(), &mut self.rng)
        } else {
            let customer = self.some_customer();
            self.orders.push(customer);
            self.orders.len() - 1
        };
        let items = self.basket();
        let schema_version = if self.rng.random_bool(OLD_SCHEMA) { 1 } else { 2 };
        let with_country = !self.rng.random_bool(ORDER_WITHOUT_COUNTRY);
        let stale = self.rng.random_bool(STALE_CUSTOMER_IN_ORDER);

        let customer = &self.customers[self.orders[number]];
        let profile = if stale { &customer.first_profile } else { &customer.profile };
        let id = format!("o-{:07}", number + 1);
        let event = OrderConfirmed {
            event_id: &envelope.event_id,
            schema_version,
            occurred_at: &envelope.occurred_at,
            order: Order {
                id: &id,
                customer_id: &customer.id,
                customer_email: &profile.email,
                customer_name: &profile.name,
                customer_country: with_country.then_some(profile.country),
                currency: currency_in(profile.country),
                total_cents: items.iter().map(|item| item.qty * item.price_cents).sum(),
                items,
            },
        };
        self.record(ORDER_CONFIRMED, &id, &event, envelope)
    }

    fn country_changed(&mut self, envelope: &Envelope) -> Record {
        let number = self.some_customer();
        let before = self.customers[number].profile.country;
        let country = loop {
            let country = self.some_country();
            if country != before {
                break country;
            }
        };
        self.customers[number].profile.country = country;
        let customer_id = self.customers[number].id.clone();
        let event = CustomerCountryChanged {
            event_id: &envelope.event_id,
            occurred_at: &envelope.occurred_at,
            customer_id: &customer_id,
            country,
        };
        self.record(CUSTOMER_COUNTRY_CHANGED, &customer_id, &event, envelope)
    }

    fn profile_updated(&mut self, envelope: &Envelope) -> Record {
        let number = self.some_customer();
        let name = self.some_name();
        let customer = &mut self.customers[number];
        customer.updates += 1;
        customer.profile.email = format!("{}.{}@example.org", customer.id, customer.updates);
        customer.profile.name = name;
        let customer = &self.customers[number];
        let event = CustomerProfileUpdated {
            event_id: &envelope.event_id,
            occurred_at: &envelope.occurred_at,
            customer_id: &customer.id,
            email: &customer.profile.email,
            name: &customer.profile.name,
        };
        self.record(CUSTOMER_PROFILE_UPDATED, &customer.id, &event, envelope)
    }

    fn record(&self, topic: &str, key: &str, event: &impl Serialize, envelope: &Envelope) -> Record {
        let payload = serde_json::to_vec(event).expect("a payload of strings and numbers is JSON");
        let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
        Record {
            headers: vec![header("x-event-id", &envelope.event_id), header("x-trace-id", &envelope.trace_id)],
            timestamp_ms: Some(envelope.timestamp_ms),
            ..Record::new(format!("{}{topic}", self.workload.topic_prefix), key, payload)
        }
    }

    fn some_customer(&mut self) -> usize {
        let known = self.customers.len();
        match self.workload.shape.customers {
            Customers::Growing if known == 0 || self.rng.random_bool(NEW_CUSTOMER) => self.new_customer(),
            Customers::Growing => self.rng.random_range(0..known).min(self.rng.random_range(0..known)),
            // Those who were not drawn yet are all alike.
            Customers::Fixed(count) => match self.rng.random_range(0..count) {
                drawn if drawn < known => drawn,
                _ => self.new_customer(),
            },
        }
    }

    fn new_customer(&mut self) -> usize {
        let id = format!("c-{:06}", self.customers.len() + 1);
        let profile = Profile {
            country: self.some_country(),
            email: format!("{id}@example.com"),
            name: self.some_name(),
        };
        self.customers.push(Customer { id, first_profile: profile.clone(), profile, updates: 0 });
        self.customers.len() - 1
    }

    fn some_country(&mut self) -> &'static str {
        weighted(&COUNTRIES, |(_, weight)| *weight, &mut self.rng).0
    }

    fn some_name(&mut self) -> String {
        let given = GIVEN_NAMES[self.rng.random_range(0..GIVEN_NAMES.len())];
        let family = FAMILY_NAMES[self.rng.random_range(0..FAMILY_NAMES.len())];
        format!("{given} {family}")
    }

    /// One to four different articles.
    fn basket(&mut self) -> Vec<Item> {
        let articles = self.rng.random_range(1..=4);
        let mut items: Vec<Item> = Vec::with_capacity(articles);
        for _ in 0..articles {
            let (sku, price_cents, _) = *weighted(&ARTICLES, |(_, _, weight)| *weight, &mut self.rng);
            if items.iter().all(|item| item.sku != sku) {
                items.push(Item { sku, qty: self.rng.random_range(1..=3), price_cents });
            }
        }
        items
    }
}

fn weighted<'a, T>(choices: &'a [T], weight: impl Fn(&T) -> u32, rng: &mut StdRng) -> &'a T {
    choices.choose_weighted(rng, weight).expect("the catalogue's weights are positive")
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use serde_json::Value;

    use super::*;
    use crate::shape::Popularity;

    fn workload(seed: u64, events: usize) -> Workload {
        Workload::new(seed, events, UNIX_EPOCH + Duration::from_secs(1_700_000_000))
    }

    fn payload(record: &Record) -> Value {
        serde_json::from_slice(record.payload.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn a_seed_gives_the_same_records_again_and_another_seed_others() {
        let records = |seed| workload(seed, 500).records().collect::<Vec<_>>();
        assert_eq!(records(1), records(1));
        assert_ne!(records(1), records(2));
    }

    #[test]
    fn time_goes_forward_over_sixty_days_and_ends_before_now() {
        let workload = workload(3, 2_000);
        let now_ms = 1_700_000_000_000;
        let times: Vec<i64> = workload.records().map(|record| record.timestamp_ms.unwrap()).collect();
        assert!(times.is_sorted());
        assert!(*times.last().unwrap() <= now_ms);
        assert!(times[0] >= now_ms - 60 * 86_400_000 && times[0] < now_ms - 59 * 86_400_000);
        let first = workload.records().next().unwrap();
        let occurred_at = humantime::parse_rfc3339(payload(&first)["occurredAt"].as_str().unwrap()).unwrap();
        assert_eq!(occurred_at.duration_since(UNIX_EPOCH).unwrap().as_millis() as i64, times[0]);
    }

    #[test]
    fn every_event_has_an_id_of_its_own_in_payload_and_header() {
        let mut seen = HashSet::new();
        for record in workload(4, 2_000).records() {
            let id = payload(&record)["eventId"].as_str().unwrap().to_owned();
            let names: Vec<_> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["x-event-id", "x-trace-id"]);
            assert_eq!(record.headers[0].1.as_deref(), Some(id.as_bytes()));
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn the_topics_share_the_events_as_the_mix_says() {
        let mut count: HashMap<String, usize> = HashMap::new();
        for record in workload(5, 10_000).records() {
            *count.entry(record.topic).or_default() += 1;
        }
        assert!((8_300..8_700).contains(&count[ORDER_CONFIRMED]), "{count:?}");
        assert!((850..1_150).contains(&count[CUSTOMER_COUNTRY_CHANGED]), "{count:?}");
        assert!((400..600).contains(&count[CUSTOMER_PROFILE_UPDATED]), "{count:?}");
    }

    /// What the proofs need to meet: each of these has bitten somebody.
    #[test]
    fn the_history_has_its_special_cases() {
        let (mut old_schema, mut without_country, mut again, mut yoga_mats) = (0, 0, 0, 0);
        let (mut changed_before_any_order, mut changed_after_an_order) = (0, 0);
        let (mut orders, mut ordered) = (HashSet::new(), HashSet::new());
        for record in workload(6, 5_000).records() {
            let event = payload(&record);
            if record.topic == ORDER_CONFIRMED {
                let order = &event["order"];
                assert_eq!(record.key.as_deref(), order["id"].as_str().map(str::as_bytes));
                let items = order["items"].as_array().unwrap();
                let cost =
                    |item: &Value| item["qty"].as_i64().unwrap() * item["priceCents"].as_i64().unwrap();
                assert_eq!(order["totalCents"].as_i64().unwrap(), items.iter().map(cost).sum::<i64>());
                old_schema += usize::from(event["schemaVersion"] == 1);
                without_country += usize::from(order.get("customerCountry").is_none());
                again += usize::from(!orders.insert(order["id"].to_string()));
                yoga_mats += usize::from(items.iter().any(|item| item["sku"] == "yoga-mat"));
                ordered.insert(order["customerId"].to_string());
            } else {
                assert_eq!(record.key.as_deref(), event["customerId"].as_str().map(str::as_bytes));
                let known = ordered.contains(&event["customerId"].to_string());
                changed_after_an_order += usize::from(known);
                changed_before_any_order += usize::from(!known);
            }
        }
        assert!((15..90).contains(&old_schema), "{old_schema}");
        assert!((300..600).contains(&without_country), "{without_country}");
        assert!((40..150).contains(&again), "{again}");
        assert!((300..1_500).contains(&yoga_mats), "{yoga_mats}");
        assert!(changed_before_any_order > 50, "{changed_before_any_order}");
        assert!(changed_after_an_order > 300, "{changed_after_an_order}");
    }

    #[test]
    fn a_few_orders_are_confirmed_again_and_again_where_zipf_rules() {
        let mut workload = workload(7, 10_000);
        workload.mix = Mix { orders: 1, country_changes: 0, profile_updates: 0 };
        workload.shape = Shape { confirmed_again: 0.8, popularity: Popularity::Zipf, ..Shape::default() };
        let mut confirmed: HashMap<Vec<u8>, usize> = HashMap::new();
        for record in workload.records() {
            *confirmed.entry(record.key.unwrap()).or_default() += 1;
        }
        assert!((1_850..2_150).contains(&confirmed.len()), "{}", confirmed.len());
        assert!(confirmed[&b"o-0000001"[..]] > 500, "{}", confirmed[&b"o-0000001"[..]]);
        assert!(confirmed.values().filter(|times| **times == 1).count() > 500);
    }

    #[test]
    fn a_fixed_number_of_customers_share_the_orders() {
        let mut workload = workload(8, 5_000);
        workload.mix = Mix { orders: 95, country_changes: 5, profile_updates: 0 };
        workload.shape = Shape { customers: Customers::Fixed(10), ..Shape::default() };
        let mut orders: HashMap<String, usize> = HashMap::new();
        for record in workload.records().filter(|record| record.topic == ORDER_CONFIRMED) {
            *orders.entry(payload(&record)["order"]["customerId"].to_string()).or_default() += 1;
        }
        assert_eq!(orders.len(), 10);
        assert!(orders.values().all(|count| (380..580).contains(count)), "{orders:?}");
    }
}
