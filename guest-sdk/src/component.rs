//! The exports of the component, and the conversions between wit-bindgen's types and the SDK's own.

use std::sync::Once;

use projector_model::{Change, LookupCall, Rejection, Value};

use crate::bindings::Guest;
use crate::bindings::projector::plugin::types as wit;
use crate::declare::Projection;
use crate::log;
use crate::record::{Answer, Found, Header, Record};

/// Exports a [`Projection`] from the component. `#[projection]` does this already; only a plugin that implements
/// [`Projection`] by hand calls this macro.
#[macro_export]
macro_rules! export_projection {
    ($projection:ident) => {
        $crate::bindings::export!($projection with_types_in $crate::bindings);
    };
}

impl<P: Projection> Guest for P {
    fn describe() -> String {
        log_panics();
        P::descriptor().to_json()
    }

    fn project(event: wit::Event, found: Vec<wit::Found>) -> Result<wit::Outcome, wit::Rejection> {
        log_panics();
        let found = found.into_iter().map(Found::from).collect();
        match P::project(&event.into(), found) {
            Ok(answer) => Ok(answer.into()),
            Err(Rejection { code, detail }) => Err(wit::Rejection { code, detail }),
        }
    }
}

/// Logs the message and the place of every panic. A panic becomes a trap, and a trap alone carries neither.
fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|panic| log::error(panic.to_string()))));
}

impl From<wit::Event> for Record {
    fn from(event: wit::Event) -> Self {
        let header = |header: wit::Header| Header { name: header.name, value: header.value };
        Self {
            topic: event.topic,
            topic_name: event.topic_name,
            partition: event.partition,
            offset: event.offset,
            timestamp_ms: event.timestamp,
            key: event.key,
            value: event.value,
            headers: event.headers.into_iter().map(header).collect(),
        }
    }
}

impl From<wit::Found> for Found {
    fn from(found: wit::Found) -> Self {
        let values = |values: Vec<wit::Value>| values.into_iter().map(Value::from).collect::<Vec<_>>();
        Self {
            call: LookupCall { lookup: found.call.lookup, arguments: values(found.call.arguments) },
            rows: found.rows.into_iter().map(values).collect(),
        }
    }
}

impl From<Answer> for wit::Outcome {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Changes(changes) => Self::Changes(changes.into_iter().map(Into::into).collect()),
            Answer::Ignored { code, detail } => Self::Ignored(wit::Ignored { code, detail }),
            Answer::Needs(calls) => Self::Needs(calls.into_iter().map(Into::into).collect()),
        }
    }
}

impl From<Change> for wit::Change {
    fn from(Change { statement, arguments }: Change) -> Self {
        Self { statement, arguments: arguments.into_iter().map(Into::into).collect() }
    }
}

impl From<LookupCall> for wit::LookupCall {
    fn from(LookupCall { lookup, arguments }: LookupCall) -> Self {
        Self { lookup, arguments: arguments.into_iter().map(Into::into).collect() }
    }
}

impl From<Value> for wit::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Boolean(truth) => Self::Boolean(truth),
            Value::Int64(number) => Self::Int64(number),
            Value::Float64(number) => Self::Float64(number),
            Value::Decimal(number) => Self::Decimal(number.to_string()),
            Value::Text(text) => Self::Text(text),
            Value::Bytes(bytes) => Self::Bytes(bytes),
            Value::Json(document) => Self::Json(document),
            Value::Timestamp(micros) => Self::Timestamp(micros),
            Value::Date(days) => Self::Date(days),
            Value::Uuid(bytes) => {
                let number = u128::from_be_bytes(bytes);
                Self::Uuid(((number >> 64) as u64, number as u64))
            }
        }
    }
}

impl From<wit::Value> for Value {
    fn from(value: wit::Value) -> Self {
        match value {
            wit::Value::Null => Self::Null,
            wit::Value::Boolean(truth) => Self::Boolean(truth),
            wit::Value::Int64(number) => Self::Int64(number),
            wit::Value::Float64(number) => Self::Float64(number),
            wit::Value::Decimal(text) => match text.parse() {
                Ok(number) => Self::Decimal(number),
                // The host read the value from a decimal column, so this is a bug of the host.
                Err(problem) => panic!("the host passed an invalid decimal: {problem}"),
            },
            wit::Value::Text(text) => Self::Text(text),
            wit::Value::Bytes(bytes) => Self::Bytes(bytes),
            wit::Value::Json(document) => Self::Json(document),
            wit::Value::Timestamp(micros) => Self::Timestamp(micros),
            wit::Value::Date(days) => Self::Date(days),
            wit::Value::Uuid((high, low)) => {
                Self::Uuid(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
            }
        }
    }
}
