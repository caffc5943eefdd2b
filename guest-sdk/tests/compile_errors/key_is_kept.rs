use projector_sdk::prelude::*;

#[derive(Table)]
pub struct Customer {
    #[key]
    pub customer_id: String,
    pub country: String,
    pub visits: Option<i64>,
}

#[derive(Update)]
#[update(table = Customer, by(country))]
struct Renamed {
    country: String,
    customer_id: String,
}

fn main() {}
