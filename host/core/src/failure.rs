//! The kinds of failure: what happened, what the host does, and what an operator does.
//!
//! Logs, `projector status` and dead letters show the kind and its [advice](FailureKind::advice). A test
//! writes the runbook of the book (`docs/src/operators/runbook.md`) from this file, and fails if the two
//! differ.

#[cfg(test)]
mod runbook;

use std::any::Any;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What the host does after a failure of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// The host retries the operation, with a backoff, without end. No offset moves, and no event is
    /// blamed.
    Retry,
    /// The host calls the event again, alone, in a fresh instance. If it fails again, the projection's
    /// [`Policy`](crate::failure_policy::Policy) decides.
    Policy,
    /// The partition or the projection stops until an operator acts.
    Pause,
    /// The component does not run. The previous version continues.
    Refuse,
    /// The host drops the batch in flight, reads the checkpoint again, and reads the log from there.
    Reposition,
}

macro_rules! kinds {
    ($($(#[doc = $meaning:literal])* $kind:ident = $word:literal, $response:ident, $advice:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FailureKind { $($(#[doc = $meaning])* $kind,)* }

        impl FailureKind {
            pub const ALL: &[FailureKind] = &[$(FailureKind::$kind),*];

            /// The word for this kind in the database, in logs and in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(FailureKind::$kind => $word,)* }
            }

            /// What happened.
            pub const fn meaning(self) -> &'static str {
                match self { $(FailureKind::$kind => concat!($($meaning),*),)* }
            }

            pub const fn response(self) -> Response {
                match self { $(FailureKind::$kind => Response::$response,)* }
            }

            /// What an operator does about it.
            pub const fn advice(self) -> &'static str {
                match self { $(FailureKind::$kind => $advice,)* }
            }
        }
    };
}

kinds! {
    /// The read-model database cannot be reached, is full or read-only, or has no free connection.
    Database = "database", Retry,
        "no event is lost, and the host recovers by itself: check that the read-model database is running and reachable, and has free disk space and connections";
    /// The database refuses the host because of the store's settings, the database's own settings or a
    /// missing right. Only a person can correct the cause.
    DatabaseSetup = "database-setup", Retry,
        "no event is lost, but a person must act: do what the reason says. The host then continues without a restart";
    /// Two databases have the same store id: one is a copy of the other.
    Copied = "copied", Retry,
        "no event is lost: the host does not join a consumer group that hosts of another database use. Run `projector adopt` with the configuration of the copy. The command first shows both choices: new consumer groups (`--new-groups`, for a copy beside its original), or the existing groups (`--keep-groups`, if the original is gone for good). The hosts of the original need no change";
    /// A statement waited for a lock for longer than the lock timeout.
    Locked = "locked", Retry,
        "no event is lost, and the host recovers by itself: end the session that holds the lock";
    /// Two transactions waited for each other's locks, and the database rolled back the host's transaction.
    Deadlock = "deadlock", Retry,
        "no event is lost, and the host recovers by itself: the database's log shows both statements. Let the other sessions that write these rows commit sooner";
    /// A statement ran for longer than the statement timeout: the batch is too large, or the database is slow.
    Slow = "slow", Retry,
        "no event is lost, and the host recovers by itself, with smaller batches: find out why the database is slow, or raise the store's `statement-timeout`";
    /// The brokers do not answer.
    Brokers = "brokers", Retry,
        "no event is lost, and the host recovers by itself: check that the brokers are running and reachable";
    /// The brokers answer, but refuse a request because the host lacks a right (an ACL).
    Denied = "denied", Retry,
        "no event is lost: grant the right that the reason names. The projection then continues without a restart";
    /// A topic that the projection reads does not exist.
    NoTopic = "no-topic", Retry,
        "no event is lost: create the topic, or correct its name under `[kafka.topics]`. A newly created topic is read without a restart";
    /// A topic was deleted after events of it were applied to the read model.
    TopicDeleted = "topic-deleted", Retry,
        "the projection continues with its other topics and keeps its rows. A topic that is recreated under this name is another log, and its events are not applied to these rows: recreate it with all events that the read model needs, then run `projector rebuild`. If the topic is not needed any more, deploy a version that does not declare it";
    /// The brokers refuse the host because of its login, its certificate or its membership in the consumer
    /// group.
    Login = "login", Retry,
        "no event is lost, but a person must act: correct `[kafka]` in the configuration as the reason says";
    /// The brokers are older than the host supports.
    Unsupported = "unsupported", Retry,
        "no event is lost, but a person must act: use brokers of Kafka 2.8 or newer";
    /// A task of the host panicked.
    Crash = "crash", Retry,
        "no event is lost, and the host restarts the task: this is a bug in Projector. Report it with the log lines around the panic";
    /// A component could not be compiled because of this machine, not because of the component.
    Machine = "machine", Retry,
        "the host recovers by itself: check this machine's free memory, its limit of processes and its temporary directory";

    /// The plugin rejected the event.
    Rejected = "rejected", Policy,
        "correct the system that produced the event, or deploy a plugin that accepts the event; then run `projector dlq retry`, or `projector dlq discard`";
    /// The plugin trapped: in Rust, it panicked.
    Trap = "trap", Policy,
        "this is a bug in the plugin: deploy a version without the bug, then run `projector dlq retry`";
    /// The plugin exceeded a limit.
    Limit = "limit", Policy,
        "raise the projection's limit, or deploy a plugin that needs less; then run `projector dlq retry`";
    /// A statement for this event alone exceeds the statement timeout every time.
    TooSlow = "too-slow", Policy,
        "find the cause (a missing index, a trigger, one row that all events write), or raise the store's `statement-timeout`; then run `projector dlq retry`";
    /// The record's value is larger than `kafka.value-bytes`.
    TooLarge = "too-large", Policy,
        "the value is stored only in the log: raise `kafka.value-bytes` above the value's size and restart the hosts. Then run `projector dlq retry` while the log still holds the record. Or run `projector dlq discard`";
    /// The plugin returned something that it did not declare or that no database can store, or the record
    /// contains something that cannot be passed to a plugin.
    Invalid = "invalid", Policy,
        "correct what the detail names: a bug in the plugin, a value that does not fit its column, or the record's producer; then run `projector dlq retry`, or `projector dlq discard`";
    /// The event needs a row that was not written in time.
    NotYet = "not-yet", Policy,
        "find out why no event has written the row. When the row exists, run `projector dlq retry`; otherwise run `projector dlq discard`";
    /// The database refused the event's rows.
    Refused = "refused", Policy,
        "correct the data, or the constraint that the reason names; then run `projector dlq retry`";

    /// A call exceeded its time limit before its fuel limit. The cause may be a busy machine as well as the
    /// plugin.
    Timeout = "timeout", Pause,
        "give the machine more CPU, or raise `limits.time`; then run `projector resume`";
    /// The log is not the log that the checkpoint belongs to.
    Log = "log", Pause,
        "restore the log, then run `projector resume`. If events are lost for good, run `projector skip`. If another cluster holds the same events, run `projector move-checkpoints`. If the topic was recreated, run `projector rebuild`";
    /// The configured start is not in the log, or belongs to a topic that the plugin does not read.
    Start = "start", Pause,
        "correct `[projections.NAME] start` in the configuration, and restart the hosts";
    /// The tables that the host created were changed by hand.
    Drift = "drift", Pause,
        "undo what was changed by hand, then run `projector resume`";
    /// An event failed, and the failure policy is `halt`.
    Halted = "halted", Pause,
        "deploy a plugin that accepts the event, or skip the event with `projector skip`; then run `projector resume`";
    /// Too many events fail: many in a row, or too many of the last events.
    Flood = "flood", Pause,
        "find out what is wrong with the topic or the plugin (`projector dlq list`), then run `projector resume`";
    /// The number of dead letters or of parked events has reached its limit.
    Full = "full", Pause,
        "retry or discard dead letters (`projector dlq`), or raise the limit; then run `projector resume`";
    /// The store cannot be used in its present state.
    Store = "store", Pause,
        "do what the reason says, then run `projector resume`";
    /// An operator paused the projection.
    Operator = "operator", Pause,
        "when the operator's reason no longer applies, run `projector resume`";

    /// The file is not a component that the host may run.
    Component = "component", Refuse,
        "do what the reason says, and replace the file";

    /// Another host moved the checkpoint.
    Fenced = "fenced", Reposition,
        "nothing to do: this check prevents two hosts from writing the same event";
    /// Another component became the active version.
    Superseded = "superseded", Reposition,
        "nothing to do: the projection continues with the active version";
    /// The generation's checkpoints are blocked for a moment, while generations are compared or switched.
    Held = "held", Reposition,
        "nothing to do: the projection continues within seconds";
}

/// After this time, the advice no longer says that the host recovers by itself.
pub const LASTING: Duration = Duration::from_secs(60);

impl FailureKind {
    /// What an operator does about a failure that has lasted for `time`.
    pub fn advice_after(self, time: Duration) -> &'static str {
        match self {
            _ if time < LASTING => self.advice(),
            FailureKind::Database => {
                "no event is lost, and the host keeps trying: check that the read-model database is running and reachable, and has free disk space and connections"
            }
            FailureKind::Locked => {
                "no event is lost, and the host keeps trying: end the session that holds the lock"
            }
            FailureKind::Slow => {
                "no event is lost, and the host keeps trying: find out why the database is slow, or raise the store's `statement-timeout`"
            }
            FailureKind::Deadlock => {
                "no event is lost, and the host keeps trying: the database's log shows both statements. Let the other sessions that write these rows commit sooner"
            }
            FailureKind::Brokers => {
                "no event is lost, and the host keeps trying: check that the brokers are running and reachable"
            }
            FailureKind::Machine => {
                "the host keeps trying: check this machine's free memory, its limit of processes and its temporary directory"
            }
            _ => self.advice(),
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for FailureKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The message of a panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Why a projection or a partition does not continue. Stored in the database and shown to operators,
/// perhaps long after the failure: so [`advice`](Self::advice) is the one for a failure that lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    pub kind: FailureKind,
    pub reason: String,
}

impl Blocker {
    pub fn new(kind: FailureKind, reason: impl fmt::Display) -> Self {
        // Postgres cannot store a NUL character in a text.
        Self { kind, reason: reason.to_string().replace('\0', "\\0") }
    }

    /// What an operator does about it.
    pub fn advice(&self) -> &'static str {
        self.kind.advice_after(LASTING)
    }

    /// Reads a stored blocker. A kind that this version does not know (written by a later version) becomes
    /// [`FailureKind::Store`].
    pub fn stored(kind: Option<String>, reason: Option<String>) -> Option<Self> {
        let kind = kind.as_deref().and_then(FailureKind::from_word).unwrap_or(FailureKind::Store);
        reason.map(|reason| Self { kind, reason })
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.advice())
    }
}

impl Serialize for Blocker {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            kind: FailureKind,
            reason: &'a str,
            advice: &'static str,
        }
        Shown { kind: self.kind, reason: &self.reason, advice: self.advice() }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_can_be_stored() {
        assert_eq!(Blocker::new(FailureKind::Rejected, "a\0b").reason, "a\\0b");
    }

    #[test]
    fn advice_for_a_lasting_failure_does_not_promise_recovery() {
        for kind in FailureKind::ALL {
            let (at_first, later) = (kind.advice(), kind.advice_after(LASTING));
            assert!(!later.contains("recovers by itself"), "{kind}: {later}");
            assert_eq!(at_first == later, !at_first.contains("recovers by itself"), "{kind}");
        }
    }

    #[test]
    fn a_stored_word_means_its_kind() {
        for kind in FailureKind::ALL {
            assert_eq!(FailureKind::from_word(kind.as_str()), Some(*kind));
        }
        assert_eq!(FailureKind::from_word("unheard-of"), None);
    }
}
