//! Runs a projection in a test: natively, in memory, on the model's reference interpreter.
//!
//! ```
//! # use projector_sdk::prelude::*;
//! # #[derive(Table)]
//! # pub struct Customer { #[key] pub customer_id: String, pub country: String }
//! # #[derive(serde::Deserialize)]
//! # #[serde(rename_all = "camelCase")]
//! # pub struct CountryChanged { customer_id: String, country: String }
//! # pub struct Customers;
//! # #[projection(name = "customers")]
//! # impl Customers {
//! #     #[on("customer.country.changed.v1", writes(Customer))]
//! #     fn changed(event: Event<CountryChanged>, cx: &mut Context<Self>) -> Outcome {
//! #         let CountryChanged { customer_id, country } = event.payload;
//! #         cx.write(Customer { customer_id, country });
//! #         Ok(())
//! #     }
//! # }
//! use projector_sdk::testing::Harness;
//! use serde_json::json;
//!
//! let mut harness = Harness::<Customers>::new();
//! harness
//!     .event("customer.country.changed.v1")
//!     .key("c1")
//!     .json(json!({"customerId": "c1", "country": "DE"}))
//!     .send()
//!     .expect_applied();
//! assert_eq!(harness.row::<Customer>("c1").map(|row| row.country), Some("DE".into()));
//! ```

mod delivery;
mod handled;
mod harness;

pub use delivery::Delivery;
pub use handled::Handled;
pub use harness::Harness;
