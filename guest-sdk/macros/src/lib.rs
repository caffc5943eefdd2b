//! The macros of `projector-sdk`. Authors use them from there.
//!
//! Each derive reads the struct into a small model of its own, refuses what it can tell is wrong
//! at the author's line, and leaves the rest (is that a column? of that type?) to checks that it
//! writes beside the struct, so that rustc answers with its own words and suggestions.

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

/// A table, and with it the write of a whole row and the read of the row of a key.
///
/// ```ignore
/// #[derive(Table)]
/// #[table(name = "order_search", index(customer_id), index(country, confirmed_at), index(contains(items)))]
/// pub struct OrderRow {
///     #[key]
///     pub order_id: String,
///     pub customer_id: String,
///     pub country: Option<String>,             // an Option is nullable
///     #[column(decimal(18, 2))]
///     pub total: Decimal,
///     pub items: Json<Vec<Item>>,
///     pub confirmed_at: Timestamp,
/// }
/// ```
///
/// A field is a column of its name. `#[key]` marks the primary key's columns, in their order.
/// `#[table(...)]` takes `name` (else the struct's, in snake case), any number of `index(...)` and
/// `index(contains(column))`, and `guard = column`, which makes the write of a whole row one that
/// an older version does not undo.
///
/// With `lineage`, every stored row also keeps the position of the event that wrote it last, and the
/// digest of the plugin that did, for operators: in the columns `_topic`, `_partition`, `_offset` and
/// `_digest` of the table itself, which its readers' view does not show and no handler reads. The host
/// then merges less of a batch: see `projector inspect --explain`.
///
/// `cx.write(row)` inserts the row or sets all of its columns; `cx.get::<OrderRow>(&order_id)?`
/// reads it. In the descriptor, both are named after the table.
#[proc_macro_derive(Table, attributes(table, key, column))]
pub fn derive_table(input: TokenStream) -> TokenStream {
    expand(table::expand(&parse_macro_input!(input as DeriveInput)))
}

/// A write of some columns of the row of a key, which is inserted if it is not there.
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
/// The fields are columns of the table: its whole key, every column that is never null, and any
/// others; columns without a field stay as they are. `#[operation(...)]` says how a field meets
/// the stored value: `add`, `min`, `max`, `set_if_null`, `keep`; without it the field is set.
/// `#[upsert(...)]` takes `table`; `guard = column`, so that a lower version than the stored one
/// does nothing; `once`, so that a row that is there stays as it is; and `name` (else the
/// struct's, in kebab case).
#[proc_macro_derive(Upsert, attributes(upsert, operation))]
pub fn derive_upsert(input: TokenStream) -> TokenStream {
    expand(upsert::expand(&parse_macro_input!(input as DeriveInput)))
}

/// A write of some columns of the rows that others select.
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
/// `by` names the fields that select the rows: the key, or the first columns of an index. The
/// other fields are set, or as their `#[operation(...)]` says (see `Upsert`). `#[update(...)]`
/// further takes `guard = column`, `on_miss = "reject"`, for an event that makes no sense when no
/// row is there, and `name`.
#[proc_macro_derive(Update, attributes(update, operation))]
pub fn derive_update(input: TokenStream) -> TokenStream {
    expand(selection::expand_update(&parse_macro_input!(input as DeriveInput)))
}

/// A removal of the rows that its fields select.
///
/// ```ignore
/// #[derive(Delete)]
/// #[delete(table = Customer, by(customer_id))]
/// struct Gone {
///     customer_id: String,
/// }
/// ```
///
/// With `guard = column` it is by the key and has that column as one more field; it then leaves a
/// tombstone behind, which only a write of the same or a higher version turns into a row again.
/// `#[delete(...)]` further takes `on_miss = "reject"` and `name`.
#[proc_macro_derive(Delete, attributes(delete))]
pub fn derive_delete(input: TokenStream) -> TokenStream {
    expand(selection::expand_delete(&parse_macro_input!(input as DeriveInput)))
}

/// A read of the rows that its fields select: `cx.find(OrdersOf { customer_id })?`.
///
/// ```ignore
/// #[derive(Lookup)]
/// #[lookup(table = OrderRow, by(customer_id), limit = 100)]
/// struct OrdersOf {
///     customer_id: String,
/// }
/// ```
///
/// Every field is named in `by`: the key, or the first columns of an index. At most `limit` rows
/// are read, in the order of their key.
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
/// `name` is the projection's own. `revision` (1) is raised when the rows must be built again
/// although the tables are the same. `version` is the crate's, unless it is given. `ignores` and
/// `rejects` declare the codes that its handlers give, with what they mean for an operator.
///
/// `#[on(...)]` names a topic and what its events may write and read. A handler for topics that
/// are alike has several. Functions without it are the author's own.
///
/// `event_id(header = "x-event-id", window = "7d")` in it, or `field = "eventId"` for a field at the top
/// level of a JSON payload, has the host tell a producer's duplicates: an event whose id was handled
/// within the window (`d`, `h`, `m` or `s`) is ignored, with the code `duplicate`. Writes that are
/// idempotent do not need it; an `add` does. An id in several parts names each of them:
/// `event_id(header = "ce_source", header = "ce_id", window = "7d")` is CloudEvents' identity. An event that
/// lacks a part, or has an empty one, has no id: it is projected, and counted apart.
///
/// `ordering_group = "customer"` says that several topics are keyed alike: where an event of one is
/// rejected, later events of its key wait behind it in all of them. A topic without it is a group of
/// its own.
///
/// `waits = "24h"` says that its events may wait for a row that is not there yet: see `Context::require`. The time
/// is event time: that of the records. Once the log is read so far beyond the event's own time without that row, the
/// event fails, with the code `not-yet`. Later events of the topic and key wait behind it; those of other topics pass
/// it, also where they share its ordering group, since one of them may be what brings the row.
#[proc_macro_attribute]
pub fn projection(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(projection::expand(arguments.into(), item.into()))
}

fn expand(expanded: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    expanded.unwrap_or_else(|error| error.to_compile_error()).into()
}
