//! Answers that break a limit of the host, the declaration or the store.

use projector_sdk::model::{Change, LookupCall, Rejection, Value};
use projector_sdk::record::Answer;

use crate::instruction::{Behaviour, Instruction};

/// Indices in `descriptor.json`.
const SURVIVOR: u16 = 0;
const ODD_VALUE: u16 = 1;
const TALLY: u16 = 2;
/// This statement is not declared for the topic.
const GONE: u16 = 3;

const MANY: usize = 1_000_000;
const BOMB_CHANGES: usize = 1_000;
const BOMB_BYTES: usize = 16 << 20;

/// The answer that writes the row `id` with a note.
pub(crate) fn note(id: &str, note: String) -> Answer {
    one(SURVIVOR, vec![text(id), Value::Text(note)])
}

/// The answer of a behaviour that does not harm the instance. `rounds` counts the reads so far.
pub(crate) fn answer(instruction: &Instruction, rounds: usize) -> Result<Answer, Rejection> {
    let id = text(&instruction.id);
    Ok(match instruction.behaviour {
        Behaviour::OutputBomb => output_bomb(),
        Behaviour::ManyChanges => Answer::Changes((0..MANY).map(|_| change(SURVIVOR, Vec::new())).collect()),
        Behaviour::NeedsForever => {
            Answer::Needs(vec![lookup(0, vec![text(&format!("{}-{rounds}", instruction.id))])])
        }
        Behaviour::ManyNeeds => Answer::Needs((0..MANY).map(|_| lookup(0, Vec::new())).collect()),
        Behaviour::WrongLookup => Answer::Needs(vec![lookup(999, vec![id])]),
        Behaviour::WrongStatement => one(999, vec![id]),
        Behaviour::TooFewArguments => one(SURVIVOR, vec![id]),
        Behaviour::TooManyArguments => one(SURVIVOR, vec![id, text("one"), text("two")]),
        Behaviour::WrongType => one(SURVIVOR, vec![id, Value::Int64(1)]),
        Behaviour::NullKey => one(SURVIVOR, vec![Value::Null, text("of nobody")]),
        Behaviour::ForeignStatement => one(GONE, vec![id]),
        Behaviour::UndeclaredCode => {
            Answer::Ignored { code: "because".into(), detail: "of no declaration".into() }
        }
        Behaviour::NulText => one(SURVIVOR, vec![id, text("nul \0 inside")]),
        Behaviour::BadJson => odd(id, |odd| odd.document = Value::Json("{\"unfinished\": ".into())),
        Behaviour::NulJson => odd(id, |odd| odd.document = Value::Json("{\"nul\": \"\\u0000\"}".into())),
        Behaviour::Nan => odd(id, |odd| odd.ratio = Value::Float64(f64::NAN)),
        Behaviour::DecimalOverflow => odd(id, |odd| odd.amount = Value::Decimal(100_000.into())),
        Behaviour::TimestampOverflow => odd(id, |odd| odd.at = Value::Timestamp(i64::MAX)),
        Behaviour::AddOverflow => one(TALLY, vec![id, Value::Int64(i64::MAX)]),
        behaviour => return Err(Rejection::new("bad-payload", format!("{behaviour:?} gives no answer"))),
    })
}

/// All notes share one piece of memory. Freeing the memory more than once corrupts this instance, and nothing else.
fn output_bomb() -> Answer {
    let note = String::leak("b".repeat(BOMB_BYTES));
    let (start, length) = (note.as_mut_ptr(), note.len());
    let alias = || {
        // SAFETY: this is unsound on purpose, because every change owns the same bytes.
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
