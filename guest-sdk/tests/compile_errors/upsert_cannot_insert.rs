use projector_sdk::prelude::*;

#[derive(Table)]
pub struct Customer {
    #[key]
    pub customer_id: String,
    pub country: String,
    pub visits: Option<i64>,
}

#[derive(Upsert)]
#[upsert(table = Customer)]
struct Visited {
    customer_id: String,
    #[operation(add)]
    visits: i64,
}

fn main() {}
