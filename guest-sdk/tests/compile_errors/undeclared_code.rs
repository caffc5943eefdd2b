use projector_sdk::prelude::*;

#[derive(Table)]
pub struct Customer {
    #[key]
    pub customer_id: String,
    pub country: String,
    pub visits: Option<i64>,
}

pub struct Customers;

#[projection(name = "customers", ignores("old-schema"))]
impl Customers {
    #[on("customer.v1", writes(Customer))]
    fn customer(event: Event<String>, cx: &mut Context<Self>) -> Outcome {
        if event.payload.is_empty() {
            return cx.ignore("old-shema", "no country");
        }
        Err(Stop::reject("too-late", event.payload))
    }
}

fn main() {}
