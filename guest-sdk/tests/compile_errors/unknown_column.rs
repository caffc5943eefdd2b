use projector_sdk::prelude::*;

#[derive(Table)]
pub struct Customer {
    #[key]
    pub customer_id: String,
    pub country: String,
    pub visits: Option<i64>,
}

#[derive(Update)]
#[update(table = Customer, by(customer_id))]
struct Moved {
    customer_id: String,
    contry: String,
}

fn main() {}
