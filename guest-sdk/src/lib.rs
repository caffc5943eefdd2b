//! Write a read model as a pure function from events to rows.
//!
//! An author writes plain structs and functions: a struct for each table, a struct for each write
//! that is not of a whole row, a struct for each payload, and one handler for each topic.
//!
//! ```
//! use projector_sdk::prelude::*;
//!
//! #[derive(Table)]
//! #[table(name = "customer")]
//! pub struct Customer {
//!     #[key]
//!     pub customer_id: String,
//!     pub country: String,
//! }
//!
//! #[derive(serde::Deserialize)]
//! #[serde(rename_all = "camelCase")]
//! pub struct CountryChanged {
//!     customer_id: String,
//!     country: String,
//! }
//!
//! pub struct Customers;
//!
//! #[projection(name = "customers", revision = 1, rejects("no-country" = "the country is empty"))]
//! impl Customers {
//!     #[on("customer.country.changed.v1", writes(Customer))]
//!     fn country_changed(event: Event<CountryChanged>, cx: &mut Context<Self>) -> Outcome {
//!         let CountryChanged { customer_id, country } = event.payload;
//!         if country.is_empty() {
//!             return cx.reject("no-country", customer_id);
//!         }
//!         cx.write(Customer { customer_id, country });
//!         Ok(())
//!     }
//! }
//! ```
//!
//! Compiled for `wasm32-unknown-unknown` that is a plugin, which imports nothing but `log`.
//! Compiled natively it runs in the harness of [`testing`].
//!
//! In reading order, the way of an event: a [`Record`](record::Record) comes in, its topic's
//! handler gets it as an [`Event`], asks its [`Context`] for rows and gives it writes, and what
//! came of it goes out as an [`Answer`](record::Answer). Around it stand the declarations of
//! tables, statements, lookups and the projection, and the values of columns.

// The macros name this crate as their users see it, in its own tests as well.
extern crate self as projector_sdk;

pub mod record;

mod event;
mod payload;

mod context;
mod stop;

pub mod declare;

mod column;
pub mod date;
pub mod decimal;
pub mod timestamp;

#[doc(hidden)]
pub mod expansion;
pub mod log;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod component;

pub use column::bytes::Bytes;
pub use column::json::{Json, RawJson};
pub use column::key::{AsKey, KeyPart};
pub use column::{Column, DecimalColumn, Fits, TypedColumn};
pub use context::Context;
pub use date::Date;
pub use declare::{Lookup, Projection, Query, Reads, Statement, Table, Writes};
pub use event::{Event, Headers, Position};
pub use payload::{Payload, Unread};
pub use projector_model as model;
pub use projector_model::{Decimal, Value};
pub use projector_sdk_macros::{Delete, Lookup, Table, Update, Upsert, projection};
pub use stop::{Outcome, Stop};
pub use timestamp::Timestamp;
pub use uuid::Uuid;

/// What a plugin's source needs: `use projector_sdk::prelude::*;`
pub mod prelude {
    pub use crate::{
        Bytes, Context, Date, Decimal, Delete, Event, Json, Lookup, Outcome, RawJson, Stop, Table, Timestamp,
        Unread, Update, Upsert, Uuid, log, projection,
    };
}
