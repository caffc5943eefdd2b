//! The readers' views that the proofs compare, as `design.md` section 2 has them.

pub(crate) struct View {
    /// The projection's name, as an identifier.
    pub(super) schema: &'static str,
    pub(super) table: &'static str,
    /// The first ones are the key.
    pub(super) columns: &'static [(&'static str, Kind)],
    pub(super) key: usize,
}

/// What a column holds, as far as stores write it differently.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Text or integer.
    Plain,
    Json,
    Timestamp,
    Date,
}

pub(super) const ORDERS: View = View {
    schema: "order_search",
    table: "order_search",
    columns: &[
        ("order_id", Kind::Plain),
        ("customer_id", Kind::Plain),
        ("customer_country", Kind::Plain),
        ("customer_email", Kind::Plain),
        ("customer_name", Kind::Plain),
        ("currency", Kind::Plain),
        ("total_cents", Kind::Plain),
        ("items", Kind::Json),
        ("confirmed_at", Kind::Timestamp),
    ],
    key: 1,
};

pub(super) const CUSTOMERS: View = View {
    schema: "order_search",
    table: "customer",
    columns: &[
        ("customer_id", Kind::Plain),
        ("country", Kind::Plain),
        ("country_at", Kind::Timestamp),
        ("email", Kind::Plain),
        ("name", Kind::Plain),
        ("profile_at", Kind::Timestamp),
    ],
    key: 1,
};

pub(super) const SALES: View = View {
    schema: "sales_by_country",
    table: "sales_by_country",
    columns: &[
        ("country", Kind::Plain),
        ("day", Kind::Date),
        ("currency", Kind::Plain),
        ("orders", Kind::Plain),
        ("total_cents", Kind::Plain),
    ],
    key: 3,
};
