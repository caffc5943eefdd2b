use projector_sdk::prelude::*;

#[derive(Table)]
pub struct Customer {
    #[key]
    pub customer_id: String,
    pub country: String,
    pub visits: Option<i64>,
}

#[derive(Delete)]
#[delete(table = Customer, by(visits))]
struct Unvisited {
    visits: Option<i64>,
}

#[derive(Upsert)]
#[upsert(table = Customer, guard = visits)]
struct Counted {
    customer_id: String,
    country: String,
    visits: Option<i64>,
}

fn main() {}
