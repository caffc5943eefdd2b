//! Write a read model as a pure function from events to rows.
//!
//! An author writes plain structs and functions: a struct for each table, a struct for each write that does not write a
//! whole row, a struct for each payload, and one handler for each topic.
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
//! Compiled for `wasm32-unknown-unknown`, this crate is a plugin. The plugin imports only `log`. Compiled natively, it
//! runs in the harness of [`testing`].
//!
//! The path of an event, which is also the reading order: the host passes a [`Record`](record::Record) to the projection.
//! The handler of the record's topic gets it as an [`Event`], reads rows from its [`Context`], and adds writes to it. The
//! outcome goes back to the host as an [`Answer`](record::Answer). The other modules declare tables, statements, lookups
//! and the projection ([`declare`]), and define which Rust types a column can have ([`Column`]).

// The macros refer to this crate as `projector_sdk`, also within the crate's own tests.
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
pub mod bindings;
#[cfg(target_arch = "wasm32")]
mod component;

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

/// Everything that the source of a plugin usually needs: `use projector_sdk::prelude::*;`
pub mod prelude {
    pub use crate::{
        Bytes, Context, Date, Decimal, Delete, Event, Json, Lookup, Outcome, RawJson, Stop, Table, Timestamp,
        Unread, Update, Upsert, Uuid, log, projection,
    };
}
