//! What the read models must be, computed from the log in the plainest way there is. It shares no
//! code with host, model, SDK or plugins: only the definition in `design.md`, section 2.

use std::collections::{BTreeMap, HashMap};
use std::time::UNIX_EPOCH;

use projector_workload::{CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED, ORDER_CONFIRMED};
use serde_json::{Value, json};

use super::compare::Row;
use super::{ORDER_SEARCH, Platform, Rows, SALES_BY_COUNTRY, assert_same, check_books, topic};

/// What became of a projection's events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    /// Events in the log, by topic and partition.
    pub(crate) read: BTreeMap<(String, i32), u64>,
    /// By code.
    pub(crate) ignored: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) orders: Rows,
    pub(crate) customers: Rows,
    pub(crate) sales: Rows,
    pub(crate) order_search_books: Books,
    pub(crate) sales_books: Books,
}

/// Reads the three topics and folds them. Customers' own topics come first: their word is final,
/// whatever the order in which the host heard it.
pub(crate) fn fold(platform: &Platform) -> Expected {
    let mut expected = Expected::default();
    let mut customers: HashMap<String, Value> = HashMap::new();
    for event in events(platform, CUSTOMER_COUNTRY_CHANGED, &mut expected.order_search_books) {
        let customer = customers.entry(text(&event["customerId"])).or_insert_with(|| json!({}));
        customer["country"] = event["country"].clone();
        customer["country_at"] = micros(&event["occurredAt"]);
    }
    for event in events(platform, CUSTOMER_PROFILE_UPDATED, &mut expected.order_search_books) {
        let customer = customers.entry(text(&event["customerId"])).or_insert_with(|| json!({}));
        customer["email"] = event["email"].clone();
        customer["name"] = event["name"].clone();
        customer["profile_at"] = micros(&event["occurredAt"]);
    }
    let mut sales: BTreeMap<[String; 3], (i64, i64)> = BTreeMap::new();
    let orders = events(platform, ORDER_CONFIRMED, &mut expected.sales_books);
    expected.order_search_books.read.extend(expected.sales_books.read.clone());
    for event in orders {
        if event["schemaVersion"].as_i64().expect("a number") < 2 {
            for books in [&mut expected.order_search_books, &mut expected.sales_books] {
                *books.ignored.entry("old-schema".to_owned()).or_default() += 1;
            }
            continue;
        }
        let order = &event["order"];
        let unknown = json!("unknown");
        let carried_country = order.get("customerCountry").unwrap_or(&unknown);
        let known = customers.get(order["customerId"].as_str().expect("a text")).unwrap_or(&Value::Null);
        let best =
            |known: &Value, carried: &Value| if known.is_null() { carried.clone() } else { known.clone() };
        let row = Row::from([
            ("order_id", order["id"].clone()),
            ("customer_id", order["customerId"].clone()),
            ("customer_country", best(&known["country"], carried_country)),
            ("customer_email", best(&known["email"], &order["customerEmail"])),
            ("customer_name", best(&known["name"], &order["customerName"])),
            ("currency", order["currency"].clone()),
            ("total_cents", json!(order["totalCents"].to_string())),
            ("items", order["items"].clone()),
            ("confirmed_at", micros(&event["occurredAt"])),
        ]);
        expected.orders.insert(text(&order["id"]), row);

        let day = text(&event["occurredAt"])[..10].to_owned();
        let (count, total) = sales.entry([text(carried_country), day, text(&order["currency"])]).or_default();
        *count += 1;
        *total += order["totalCents"].as_i64().expect("a number");
    }
    for (id, customer) in customers {
        let column = |name: &str| customer.get(name).cloned().unwrap_or_default();
        let row = Row::from([
            ("customer_id", json!(id)),
            ("country", column("country")),
            ("country_at", column("country_at")),
            ("email", column("email")),
            ("name", column("name")),
            ("profile_at", column("profile_at")),
        ]);
        expected.customers.insert(id, row);
    }
    for (key, (count, total)) in sales {
        let row = Row::from([
            ("country", json!(key[0])),
            ("day", json!(key[1])),
            ("currency", json!(key[2])),
            ("orders", json!(count.to_string())),
            ("total_cents", json!(total.to_string())),
        ]);
        expected.sales.insert(key.join(" "), row);
    }
    expected
}

impl Platform {
    /// Waits until `order-search` is fresh, and holds rows and counters against the fold.
    #[track_caller]
    pub(crate) fn assert_orders_are_right(&self) -> Expected {
        let status = self.until_fresh();
        let expected = fold(self);
        assert_same("order_search", &expected.orders, &self.read_model().orders());
        assert_same("customer", &expected.customers, &self.read_model().customers());
        check_books(&status[ORDER_SEARCH], &expected.order_search_books)
            .unwrap_or_else(|wrong| panic!("{wrong}"));
        expected
    }

    /// The same for `sales-by-country`.
    #[track_caller]
    pub(crate) fn assert_sales_are_right(&self) -> Expected {
        let status = self.until_fresh();
        let expected = fold(self);
        assert_same("sales_by_country", &expected.sales, &self.read_model().sales());
        check_books(&status[SALES_BY_COUNTRY], &expected.sales_books)
            .unwrap_or_else(|wrong| panic!("{wrong}"));
        expected
    }
}

/// A topic's payloads, each counted as read.
fn events(platform: &Platform, logical: &str, books: &mut Books) -> Vec<Value> {
    let name = platform.topic(logical);
    let mut payloads = Vec::new();
    for event in topic::read(platform.brokers(), &name) {
        *books.read.entry((name.clone(), event.partition)).or_default() += 1;
        payloads.push(serde_json::from_slice(&event.value.expect("no tombstones here")).expect("JSON"));
    }
    payloads
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Microseconds since 1970, as the views' dumps have them.
fn micros(time: &Value) -> Value {
    let time = humantime::parse_rfc3339(time.as_str().expect("a text")).expect("RFC 3339");
    json!(time.duration_since(UNIX_EPOCH).expect("after 1970").as_micros().to_string())
}
