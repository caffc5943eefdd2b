//! What a handler can do: write rows, read rows, ignore or reject its event, or let it wait.

use std::fmt::Display;
use std::marker::PhantomData;

use projector_model::change::codes;
use projector_model::{Change, LookupCall, Rejection, Value};

use crate::declare::{Lookup, Query, Reads, Statement, Table, Writes};
use crate::record::{Answer, Found};
use crate::{AsKey, Outcome, Stop};

/// The reads and writes of one event. The compiler checks them against what the projection `P` declares.
///
/// The host applies the writes in the order in which they were made, all or none, and only if the handler returns
/// `Ok(())`.
///
/// A read suspends the handler. The first call of [`get`](Self::get) for a row returns an error, which the `?` behind it
/// returns to the host. The host reads the row and calls the handler again from its beginning. So a handler is a pure
/// function of its event and the rows. The rows include the changes of earlier events, also of the same batch. An event
/// does not see its own writes.
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

    /// Adds a write: a whole row (a `Table`), or a derived `Upsert`, `Update` or `Delete`.
    pub fn write<S>(&mut self, statement: S)
    where
        S: Statement,
        P: Writes<S>,
    {
        self.changes
            .push(Change { statement: <P as Writes<S>>::INDEX, arguments: statement.into_arguments() });
    }

    /// The row with this key, or `None`: `cx.get::<Customer>(&id)?`. A key of several columns is a tuple:
    /// `cx.get::<Sales>((&country, &day))?`.
    pub fn get<T>(&mut self, key: impl AsKey<T::Key>) -> Result<Option<T>, Stop>
    where
        T: Table + Lookup<Row = T>,
        P: Reads<T>,
    {
        let rows = self.rows(key_call::<P, T>(key))?;
        rows.first().map(|row| read_row(row)).transpose()
    }

    /// The row with this key. If the row is missing, the event waits until the row is written.
    ///
    /// Kafka does not order the events of different topics. So the event that inserts a row may come after the event that
    /// needs the row. A handler that rejects an event because of a missing row would reject by chance. This handler gives
    /// the same result in either order:
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
    /// When the row is written, the waiting events are projected again, in the order in which they came. Meanwhile, later
    /// events of the same topic and key wait behind the event. If the row is not written within the time that `waits`
    /// declares, in event time, the event fails with the code `not-yet`, and the projection's failure policy decides what
    /// happens to it.
    pub fn require<T>(&mut self, key: impl AsKey<T::Key>) -> Result<T, Stop>
    where
        T: Table + Lookup<Row = T>,
        P: Reads<T>,
    {
        let call = key_call::<P, T>(key);
        let row = self.rows(call.clone())?.first().map(|row| read_row(row)).transpose()?;
        row.ok_or_else(|| Stop::not_yet(call))
    }

    /// Lets the event wait until the row with this key is written again: `return cx.not_yet::<OrderRow, _>(&order_id);`.
    ///
    /// For a row that exists, but is not in the state that the event needs. Otherwise as [`require`](Self::require).
    pub fn not_yet<T, X>(&mut self, key: impl AsKey<T::Key>) -> Result<X, Stop>
    where
        T: Table + Lookup<Row = T>,
        P: Reads<T>,
    {
        let call = key_call::<P, T>(key);
        self.rows(call.clone())?;
        Err(Stop::not_yet(call))
    }

    /// The rows that a derived `Lookup` selects, in the order of the key, at most as many as its `limit`.
    pub fn find<Q>(&mut self, query: Q) -> Result<Vec<Q::Row>, Stop>
    where
        Q: Query,
        P: Reads<Q>,
    {
        let rows = self.rows(query_call::<P, Q>(query))?;
        rows.iter().map(|row| read_row(row)).collect()
    }

    /// Announces that [`get`](Self::get) will read this row. The next read that suspends the handler then reads all
    /// announced rows together. This saves rounds: the host calls the handler at most three times for an event.
    pub fn prefetch<T>(&mut self, key: impl AsKey<T::Key>)
    where
        T: Table + Lookup<Row = T>,
        P: Reads<T>,
    {
        self.need(key_call::<P, T>(key));
    }

    /// Announces that [`find`](Self::find) will read these rows: see [`prefetch`](Self::prefetch).
    pub fn prefetch_find<Q>(&mut self, query: Q)
    where
        Q: Query,
        P: Reads<Q>,
    {
        self.need(query_call::<P, Q>(query));
    }

    /// Ignores the event: `return cx.ignore("old-schema", "schemaVersion 1");`. See [`Stop::ignore`].
    pub fn ignore<T>(&self, code: &'static str, detail: impl Display) -> Result<T, Stop> {
        Err(Stop::ignore(code, detail))
    }

    /// Rejects the event: `return cx.reject("no-country", "customer 7");`. See [`Stop::reject`].
    pub fn reject<T>(&self, code: &'static str, detail: impl Display) -> Result<T, Stop> {
        Err(Stop::reject(code, detail))
    }

    /// The answer to the host. If a row is still to be read, everything else that the handler did is discarded, even if
    /// the handler went on without the row.
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

/// Reads a stored row. This fails if other code has written the row under the same table declaration, most likely with
/// another type inside a `Json` column. The event is then rejected.
fn read_row<T: Table>(row: &[Value]) -> Result<T, Stop> {
    T::from_row(row).map_err(|problem| {
        Stop::rejected(Rejection::new(
            codes::INVALID_VALUE,
            format!("a stored row cannot be read: {problem}"),
        ))
    })
}
