use projector_sdk::prelude::*;

#[derive(Table)]
#[table(name = "customer", linage)]
pub struct Customer {
    #[key]
    pub customer_id: String,
}

#[derive(Table)]
#[table(lineage = true)]
pub struct Order {
    #[key]
    pub order_id: String,
}

fn main() {}
