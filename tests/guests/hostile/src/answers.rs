//! Deeds against those who read the answer.

use projector_sdk::model::{Change, LookupCall, Rejection, Value};
use projector_sdk::record::Answer;

use crate::{Deed, Order};

/// Indices in `descriptor.json`.
const SURVIVOR: u16 = 0;
const ODD_VALUE: u16 = 1;
const TALLY: u16 = 2;
/// Not declared for the topic.
const GONE: u16 = 3;

const MANY: usize = 1_000_000;
const BOMB_CHANGES: usize = 1_000;
const BOMB_BYTES: usize = 16 << 20;

/// The answer that writes a survivor.
pub(crate) fn note(id: &str, note: String) -> Answer {
    one(SURVIVOR, vec![text(id), Value::Text(note)])
}

pub(crate) fn answer(order: &Order, rounds: usize) -> Result<Answer, Rejection> {
    let id = text(&order.id);
    Ok(match order.deed {
        Deed::OutputBomb => output_bomb(),
        Deed::ManyChanges => Answer::Changes((0..MANY).map(|_| change(SURVIVOR, Vec::new())).collect()),
        Deed::NeedsForever => Answer::Needs(vec![lookup(0, vec![text(&format!("{}-{rounds}", order.id))])]),
        Deed::ManyNeeds => Answer::Needs((0..MANY).map(|_| lookup(0, Vec::new())).collect()),
        Deed::WrongLookup => Answer::Needs(vec![lookup(999, vec![id])]),
        Deed::WrongStatement => one(999, vec![id]),
        Deed::TooFewArguments => one(SURVIVOR, vec![id]),
        Deed::TooManyArguments => one(SURVIVOR, vec![id, text("one"), text("two")]),
        Deed::WrongType => one(SURVIVOR, vec![id, Value::Int64(1)]),
        Deed::NullKey => one(SURVIVOR, vec![Value::Null, text("of nobody")]),
        Deed::ForeignStatement => one(GONE, vec![id]),
        Deed::UndeclaredCode => {
            Answer::Ignored { code: "because".into(), detail: "of no declaration".into() }
        }
        Deed::NulText => one(SURVIVOR, vec![id, text("nul \0 inside")]),
        Deed::BadJson => odd(id, |odd| odd.document = Value::Json("{\"unfinished\": ".into())),
        Deed::NulJson => odd(id, |odd| odd.document = Value::Json("{\"nul\": \"\\u0000\"}".into())),
        Deed::Nan => odd(id, |odd| odd.ratio = Value::Float64(f64::NAN)),
        Deed::DecimalOverflow => odd(id, |odd| odd.amount = Value::Decimal(100_000.into())),
        Deed::TimestampOverflow => odd(id, |odd| odd.at = Value::Timestamp(i64::MAX)),
        Deed::AddOverflow => one(TALLY, vec![id, Value::Int64(i64::MAX)]),
        deed => return Err(Rejection::new("bad-payload", format!("{deed:?} is not done here"))),
    })
}

/// All notes are one piece of memory. Freeing it more than once corrupts this instance, which is
/// nobody's but its own.
fn output_bomb() -> Answer {
    let note = String::leak("b".repeat(BOMB_BYTES));
    let (start, length) = (note.as_mut_ptr(), note.len());
    let alias = || {
        // SAFETY: none, as every change owns the same bytes. That is the deed.
        unsafe { String::from_raw_parts(start, length, length) }
    };
    let bomb = |at: usize| change(SURVIVOR, vec![text(&at.to_string()), Value::Text(alias())]);
    Answer::Changes((0..BOMB_CHANGES).map(bomb).collect())
}

struct OddValue {
    document: Value,
    ratio: Value,
    amount: Value,
    at: Value,
}

fn odd(id: Value, make: impl FnOnce(&mut OddValue)) -> Answer {
    let mut odd =
        OddValue { document: Value::Null, ratio: Value::Null, amount: Value::Null, at: Value::Null };
    make(&mut odd);
    one(ODD_VALUE, vec![id, odd.document, odd.ratio, odd.amount, odd.at])
}

fn one(statement: u16, arguments: Vec<Value>) -> Answer {
    Answer::Changes(vec![change(statement, arguments)])
}

fn change(statement: u16, arguments: Vec<Value>) -> Change {
    Change { statement, arguments }
}

fn lookup(lookup: u16, arguments: Vec<Value>) -> LookupCall {
    LookupCall { lookup, arguments }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}
