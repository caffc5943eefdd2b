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
    country: String,
}

pub struct Customers;

#[projection(name = "customers")]
impl Customers {
    #[on("customer.v1", writes(Moved))]
    fn customer(event: Event<String>, cx: &mut Context<Self>) -> Outcome {
        let known = cx.get::<Customer>(&event.payload)?;
        if let Some(customer) = known {
            cx.write(customer);
        }
        Ok(())
    }
}

fn main() {}
