use projector_sdk::prelude::*;

#[derive(Table)]
pub struct Customer {
    #[key]
    pub customer_id: String,
    pub country: String,
    pub visits: Option<i64>,
}

pub struct Customers;

#[projection(name = "customers")]
impl Customers {
    #[on("customer.v1", writes(Customer))]
    fn customer(&mut self, _event: Event<String>, _cx: &mut Context<Self>) -> Outcome {
        Ok(())
    }
}

pub struct Orders;

#[projection(name = "orders")]
impl Orders {
    #[on("order.v1", writes(Customer))]
    fn order(_event: Event<Unreadable>, _cx: &mut Context<Self>) -> Outcome {
        Ok(())
    }
}

pub struct Unreadable;

fn main() {}
