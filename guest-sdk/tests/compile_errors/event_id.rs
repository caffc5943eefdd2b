use projector_sdk::prelude::*;

#[derive(Table)]
pub struct Customer {
    #[key]
    pub customer_id: String,
}

pub struct Forever;

#[projection(name = "forever")]
impl Forever {
    #[on("customer.v1", writes(Customer), event_id(header = "x-event-id", window = "forever"))]
    fn customer(_event: Event<String>, _cx: &mut Context<Self>) -> Outcome {
        Ok(())
    }
}

pub struct Nowhere;

#[projection(name = "nowhere")]
impl Nowhere {
    #[on("customer.v1", writes(Customer), event_id(window = "7d"))]
    fn customer(_event: Event<String>, _cx: &mut Context<Self>) -> Outcome {
        Ok(())
    }
}

fn main() {}
