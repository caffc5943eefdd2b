//! The macros of `projector-sdk`, which re-exports them for authors.
//!
//! Each derive reads the struct, and reports the mistakes that it can see at the author's line. It cannot see other
//! structs: whether the table has this column, and of which type. For these mistakes the derive generates checks beside
//! the struct, so that rustc reports them with its own messages and suggestions.

mod codes;
mod declaration;
mod fields;
mod handler;
mod names;
mod projection;
mod selection;
mod table;
mod target;
mod upsert;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// A table, together with the write of a whole row and the read of the row with a key.
///
/// ```ignore
/// #[derive(Table)]
/// #[table(name = "order_search", index(customer_id), index(country, confirmed_at), index(contains(items)))]
/// pub struct OrderRow {
///     #[key]
///     pub order_id: String,
///     pub customer_id: String,
///     pub country: Option<String>,             // a nullable column
///     #[column(decimal(18, 2))]
///     pub total: Decimal,
///     pub items: Json<Vec<Item>>,
///     pub confirmed_at: Timestamp,
/// }
/// ```
///
/// Each field is the column with its name. `#[key]` marks the columns of the primary key, in order. `#[table(...)]` takes:
///
/// - `name`: the table's name. By default the struct's name in snake case.
/// - `index(...)` and `index(contains(column))`, any number of them.
/// - `guard = column`: a version. A write of a whole row with a lower version than the stored row does nothing.
/// - `lineage`: each row also stores, for operators, the position of the event that wrote it last, and the digest of the
///   plugin that was active then. These columns (`_topic`, `_partition`, `_offset`, `_digest`) are in the table, but not in
///   the readers' view, and no handler reads them. Lineage prevents the host from merging some statements of a batch: see
///   `projector inspect --explain`.
///
/// `cx.write(row)` inserts the row, or sets all columns of the stored row. `cx.get::<OrderRow>(&order_id)?` reads the row.
/// In the descriptor, this statement and this lookup have the name of the table.
#[proc_macro_derive(Table, attributes(table, key, column))]
pub fn derive_table(input: TokenStream) -> TokenStream {
    expand(table::expand(&parse_macro_input!(input as DeriveInput)))
}

/// A write of some columns of the row with a key. The row is inserted if it is missing.
///
/// ```ignore
/// #[derive(Upsert)]
/// #[upsert(table = Customer, guard = country_at)]
/// struct CustomerCountry {
///     customer_id: String,
///     country: Option<String>,
///     country_at: Timestamp,
///     #[operation(add)]
///     changes: i64,
/// }
/// ```
///
/// The fields are columns of the table: the whole key, every column that is not nullable, and any other columns. Columns
/// without a field keep their values. `#[operation(...)]` says how a field is combined with the stored value: `add`,
/// `min`, `max`, `set_if_null` or `keep`. Without it the field replaces the stored value. `#[upsert(...)]` takes:
///
/// - `table`: the struct of the table.
/// - `guard = column`: a version. A write with a lower version than the stored row does nothing.
/// - `once`: a stored row stays unchanged.
/// - `name`: the statement's name. By default the struct's name in kebab case.
#[proc_macro_derive(Upsert, attributes(upsert, operation))]
pub fn derive_upsert(input: TokenStream) -> TokenStream {
    expand(upsert::expand(&parse_macro_input!(input as DeriveInput)))
}

/// A write of some columns of the rows that other columns select.
///
/// ```ignore
/// #[derive(Update)]
/// #[update(table = OrderRow, by(customer_id))]
/// struct CountryOfOrders {
///     customer_id: String,
///     customer_country: String,
/// }
/// ```
///
/// `by` lists the fields that select the rows: the key, or the first columns of an index. The other fields are written,
/// according to their `#[operation(...)]` (see `Upsert`). `#[update(...)]` also takes `guard = column`,
/// `on_miss = "reject"`, which rejects the event if no row is selected, and `name`.
#[proc_macro_derive(Update, attributes(update, operation))]
pub fn derive_update(input: TokenStream) -> TokenStream {
    expand(selection::expand_update(&parse_macro_input!(input as DeriveInput)))
}

/// Deletes the rows that the fields select.
///
/// ```ignore
/// #[derive(Delete)]
/// #[delete(table = Customer, by(customer_id))]
/// struct Gone {
///     customer_id: String,
/// }
/// ```
///
/// With `guard = column` the delete selects by the key, and has the version as one more field. It then leaves a tombstone,
/// so that a guarded write with a lower version cannot insert the row again. `#[delete(...)]` also takes
/// `on_miss = "reject"` and `name`.
#[proc_macro_derive(Delete, attributes(delete))]
pub fn derive_delete(input: TokenStream) -> TokenStream {
    expand(selection::expand_delete(&parse_macro_input!(input as DeriveInput)))
}

/// A read of the rows that the fields select: `cx.find(OrdersOf { customer_id })?`.
///
/// ```ignore
/// #[derive(Lookup)]
/// #[lookup(table = OrderRow, by(customer_id), limit = 100)]
/// struct OrdersOf {
///     customer_id: String,
/// }
/// ```
///
/// `by` lists all fields: the key, or the first columns of an index. At most `limit` rows (by default 1,000) are read, in
/// the order of the key.
#[proc_macro_derive(Lookup, attributes(lookup))]
pub fn derive_lookup(input: TokenStream) -> TokenStream {
    expand(selection::expand_lookup(&parse_macro_input!(input as DeriveInput)))
}

/// A projection: an impl block with one handler for each topic.
///
/// ```ignore
/// #[projection(name = "order-search", revision = 1, ignores("old-schema" = "schemaVersion below 2"))]
/// impl OrderSearch {
///     #[on("order.confirmed.v2", writes(OrderRow), reads(Customer))]
///     fn order_confirmed(event: Event<OrderConfirmed>, cx: &mut Context<Self>) -> Outcome { ... }
/// }
/// ```
///
/// `#[projection(...)]` takes:
///
/// - `name`: the projection's name.
/// - `revision`: raised to have all rows rebuilt although the tables are unchanged. By default 1.
/// - `version`: the version of the code. By default the version of the crate.
/// - `ignores(...)` and `rejects(...)`: the codes that the handlers use, each with its meaning for operators.
///
/// `#[on(...)]` names a topic, and lists with `writes(...)` and `reads(...)` what its events may write and read. A handler
/// for several similar topics has several of these attributes. A function without the attribute is not a handler.
/// `#[on(...)]` also takes the following options.
///
/// `event_id(header = "x-event-id", window = "7d")` lets the host recognise duplicates from the producer. An event whose
/// id was handled within the window (`d`, `h`, `m` or `s`) is ignored with the code `duplicate`. A statement that adds
/// needs this, an idempotent statement does not. Write `field = "eventId"` for a field at the top level of a JSON payload.
/// For an id in several parts, list each part: the identity of CloudEvents is
/// `event_id(header = "ce_source", header = "ce_id", window = "7d")`. An event that lacks a part, or has an empty part, has
/// no id: it is projected, and counted separately.
///
/// `ordering_group = "customer"` declares that several topics have the same keys. If an event is rejected, later events of
/// its key wait behind it in all topics of the group. By default each topic is a group of its own.
///
/// `waits = "24h"` lets events wait for a missing row: see `Context::require`. The time is event time, measured in the
/// records' timestamps. If the row is not written within this time, the event fails with the code `not-yet`. Later events
/// of the same topic and key wait behind the event. Events of other topics do not, even in the same ordering group,
/// because one of them may insert the row.
#[proc_macro_attribute]
pub fn projection(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(projection::expand(arguments.into(), item.into()))
}

fn expand(expanded: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    expanded.unwrap_or_else(|error| error.to_compile_error()).into()
}
