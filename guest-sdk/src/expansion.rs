//! What the macros' code calls. Not for authors, and not stable.

use std::marker::PhantomData;

use projector_model::{Rejection, Value};

pub use projector_model::Descriptor;
pub use projector_model::descriptor::{IndexKind, OnMiss, Operation, StatementKind};
pub use projector_model::value::Type;

pub use crate::column::{Column, DecimalColumn, Fits, TypedColumn};
pub use crate::declare::*;
pub use crate::record::{Answer, Found, Record};
use crate::{Context, Event, Outcome, Payload};

/// Compiles where a field can be written to a column.
pub fn is_column<F: Fits<C>, C>(_field: PhantomData<F>, _column: &C) {}

/// The declared type of a decimal column.
pub const fn decimal<C: DecimalColumn>(precision: u8, scale: u8) -> Type {
    Type::Decimal { precision, scale }
}

/// Reads one value of a stored row; the error begins with the column's name.
pub fn read_column<C: Column>(column: &'static str, value: &Value) -> Result<C, String> {
    C::from_value(value).map_err(|problem| format!("{column}: {problem}"))
}

/// A stored row that has not as many values as its table has columns.
pub fn wrong_width<T>(table: &'static str, columns: usize, values: usize) -> Result<T, String> {
    Err(format!("{table}: {values} values found, {columns} expected"))
}

/// Gives a record to its topic's handler.
pub fn handle<'e, P, T, H>(
    record: &'e Record,
    found: Vec<Found>,
    topic: &'static str,
    handler: H,
) -> Result<Answer, Rejection>
where
    T: Payload<'e>,
    H: FnOnce(Event<'e, T>, &mut Context<P>) -> Outcome,
{
    let payload = T::read(record.value.as_deref())?;
    let mut context = Context::new(found);
    let outcome = handler(Event::new(record, topic, payload), &mut context);
    context.answer(outcome)
}

/// A record of a topic that the descriptor has not: the host's mistake.
pub fn unknown_topic(record: &Record) -> Result<Answer, Rejection> {
    panic!("topic {} was not declared", record.topic)
}
