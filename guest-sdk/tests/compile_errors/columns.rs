use projector_sdk::prelude::*;

#[derive(Table)]
pub struct Keyless {
    pub customer_id: String,
}

#[derive(Table)]
pub struct Prices {
    #[key]
    pub sku: String,
    pub price: Decimal,
    #[column(decimal(18, 2))]
    pub count: i64,
}

#[derive(Table)]
pub struct Baskets {
    #[key]
    pub basket_id: Option<String>,
    pub items: Vec<String>,
}

fn main() {}
