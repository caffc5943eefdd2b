//! What a handler can do: write, read, ignore, reject.

use std::fmt::Display;
use std::marker::PhantomData;

use projector_model::change::codes;
use projector_model::{Change, LookupCall, Rejection, Value};

use crate::declare::{Lookup, Query, Reads, Statement, Table, Writes};
use crate::record::{Answer, Found};
use crate::{AsKey, Outcome, Stop};

/// One event's reads and writes, held against what its projection `P` declares.
///
/// Writes are applied in the order in which they were made, all or none, and only if the handler
/// returns `Ok(())`.
///
/// Reads suspend: the first call of [`get`](Self::get) for a row ends the handler (by the `?`
/// behind it), the host reads the row, and calls the handler again from its beginning. So a
/// handler is a pure function of its event and the rows. Rows are as earlier events left them,
/// those of the same batch included; an event does not see its own writes.
#[derive(Debug)]
pub struct Context<P> {
    found: Vec<Found>,
    needs: Vec<LookupCall>,
    changes: Vec<Change>,
    projection: PhantomData<fn() -> P>,
}

impl<P> Context<P> {
    pub(crate) fn new(found: Vec<Found>) -> Self {
        Self { found, needs: Vec::new(), changes: Vec::new(), projection: PhantomData }
    }

    /// Makes a write: of a whole row (a `Table`), or a derived `Upsert`, `Update` or `Delete`.
    pub fn write<S>(&mut self, statement: S)
    where
        S: Statement,
        P: Writes<S>,
    {
        self.changes
            .push(Change { statement: <P as Writes<S>>::INDEX, arguments: statement.into_arguments() });
    }

    /// The row of this key, if there is one: `cx.get::<Customer>(&id)?`. A key of several columns
    /// is a tuple: `cx.get::<Sales>((&country, &day))?`.
    pub fn get<T>(&mut self, key: impl AsKey<T::Key>) -> Result<Option<T>, Stop>
    where
        T: Table + Lookup<Row = T>,
        P: Reads<T>,
    {
        let rows = self.rows(key_call::<P, T>(key))?;
        rows.first().map(|row| read_row(row)).transpose()
    }

    /// The row of this key, which the event needs: where it is not there yet, the event waits for it.
    ///
    /// Kafka keeps no order between topics, so the event that brings a row may come after the one that needs
    /// it. A handler that rejects then rejects by chance. This one is right in any order:
    ///
    /// ```ignore
    /// #[on("order.cancelled.v1", writes(Cancellation), reads(OrderRow), waits = "24h")]
    /// fn cancelled(event: Event<Cancelled>, cx: &mut Context<Self>) -> Outcome {
    ///     let order = cx.require::<OrderRow>(&event.payload.order_id)?;
    ///     if order.shipped {
    ///         return cx.ignore("shipped", order.order_id);
    ///     }
    ///     cx.write(Cancellation { order_id: order.order_id, cancelled_at: event.payload.occurred_at });
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The event is projected again when the row is written, in the order in which such events came; later events
    /// of its topic and key wait behind it. If the row does not come within what `waits` says, in event time, the
    /// event fails: the projection's failure policy decides what becomes of it.
    pub fn require<T>(&mut self, key: impl AsKey<T::Key>) -> Result<T, Stop>
    where
        T: Table + Lookup<Row = T>,
        P: Reads<T>,
    {
        let call = key_call::<P, T>(key);
        let row = self.rows(call.clone())?.first().map(|row| read_row(row)).transpose()?;
        row.ok_or_else(|| Stop::not_yet(call))
    }

    /// `return cx.not_yet::<OrderRow, _>(&order_id);`: the event waits until that row is written, as with
    /// [`require`](Self::require): for a row that is there, but not as the event needs it.
    pub fn not_yet<T, X>(&mut self, key: impl AsKey<T::Key>) -> Result<X, Stop>
    where
        T: Table + Lookup<Row = T>,
        P: Reads<T>,
    {
        let call = key_call::<P, T>(key);
        self.rows(call.clone())?;
        Err(Stop::not_yet(call))
    }

    /// The rows that a derived `Lookup` selects, in the order of their key, at most its limit.
    pub fn find<Q>(&mut self, query: Q) -> Result<Vec<Q::Row>, Stop>
    where
        Q: Query,
        P: Reads<Q>,
    {
        let rows = self.rows(query_call::<P, Q>(query))?;
        rows.iter().map(|row| read_row(row)).collect()
    }

    /// Says that [`get`](Self::get) will ask for this row, so that several reads cost one round
    /// together rather than one each: the next `get` that has to wait waits for all of them.
    pub fn prefetch<T>(&mut self, key: impl AsKey<T::Key>)
    where
        T: Table + Lookup<Row = T>,
        P: Reads<T>,
    {
        self.need(key_call::<P, T>(key));
    }

    /// Says that [`find`](Self::find) will ask for these rows; see [`prefetch`](Self::prefetch).
    pub fn prefetch_find<Q>(&mut self, query: Q)
    where
        Q: Query,
        P: Reads<Q>,
    {
        self.need(query_call::<P, Q>(query));
    }

    /// `return cx.ignore("old-schema", "schemaVersion 1");`: see [`Stop::ignore`].
    pub fn ignore<T>(&self, code: &'static str, detail: impl Display) -> Result<T, Stop> {
        Err(Stop::ignore(code, detail))
    }

    /// `return cx.reject("no-country", "customer 7");`: see [`Stop::reject`].
    pub fn reject<T>(&self, code: &'static str, detail: impl Display) -> Result<T, Stop> {
        Err(Stop::reject(code, detail))
    }

    /// What came of the event. What the handler did without rows that it asked for counts for
    /// nothing, even where it went on without them.
    pub(crate) fn answer(self, outcome: Outcome) -> Result<Answer, Rejection> {
        if !self.needs.is_empty() {
            return Ok(Answer::Needs(self.needs));
        }
        match outcome {
            Ok(()) => Ok(Answer::Changes(self.changes)),
            Err(stop) => stop.answer(),
        }
    }

    fn rows(&mut self, call: LookupCall) -> Result<&[Vec<Value>], Stop> {
        match self.found.iter().position(|found| found.call == call) {
            Some(at) => Ok(&self.found[at].rows),
            None => {
                self.need(call);
                Err(Stop::suspend())
            }
        }
    }

    fn need(&mut self, call: LookupCall) {
        let known = self.found.iter().any(|found| found.call == call) || self.needs.contains(&call);
        if !known {
            self.needs.push(call);
        }
    }
}

fn key_call<P: Reads<T>, T: Table + Lookup>(key: impl AsKey<T::Key>) -> LookupCall {
    LookupCall { lookup: <P as Reads<T>>::INDEX, arguments: key.into_values() }
}

fn query_call<P: Reads<Q>, Q: Query>(query: Q) -> LookupCall {
    LookupCall { lookup: <P as Reads<Q>>::INDEX, arguments: query.into_arguments() }
}

/// A stored row that is not what its struct says was written by other code under the same table
/// declaration: the Json of a column changed, most likely.
fn read_row<T: Table>(row: &[Value]) -> Result<T, Stop> {
    T::from_row(row).map_err(|problem| {
        Stop::rejected(Rejection::new(codes::INVALID_VALUE, format!("a stored row of {problem}")))
    })
}
