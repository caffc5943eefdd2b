use projector_sdk::prelude::*;

#[derive(Table)]
pub struct Customer {
    #[key]
    pub customer_id: String,
    pub country: String,
    pub visits: Option<i64>,
}

#[derive(Lookup)]
#[lookup(table = Customer, by(contry))]
struct InCountry {
    country: String,
}

#[derive(Delete)]
#[delete(table = Customer, by(customer_id), gard = visits)]
struct Gone {
    customer_id: String,
    visits: i64,
}

fn main() {}
