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
struct Moved {
    customer_id: String,
    country: Option<String>,
    visits: u32,
}

fn main() {}
