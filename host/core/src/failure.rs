//! The kinds of failure: what happened, what the host does, and what an operator does.
//!
//! Logs, `status` and dead letters carry the kind and show its [advice](FailureKind::advice). The runbook in the
//! book (`docs/src/operators/runbook.md`) is made from this file, and a test keeps it equal.

#[cfg(test)]
mod runbook;

use std::any::Any;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What the host does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// The host tries the same again, with a backoff, without end. No offset moves, and no event is blamed.
    Retry,
    /// The host calls the event again, alone, in a fresh instance. If it fails again, the projection's
    /// [`Policy`](crate::failure_policy::Policy) decides.
    Policy,
    /// The partition or the projection stops until an operator acts.
    Pause,
    /// The component does not run. The version before goes on.
    Refuse,
    /// The host drops what is in flight, reads the checkpoint again, and reads the log from there.
    Reposition,
}

macro_rules! kinds {
    ($($(#[doc = $meaning:literal])* $kind:ident = $word:literal, $response:ident, $advice:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FailureKind { $($(#[doc = $meaning])* $kind,)* }

        impl FailureKind {
            pub const ALL: &[FailureKind] = &[$(FailureKind::$kind),*];

            /// The word that is stored and shown.
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
        "nothing is lost, and the host goes on by itself: check the read-model database";
    /// The store's settings, its database or a missing right keep the host out until a person changes them.
    DatabaseSetup = "database-setup", Retry,
        "nothing is lost, but a person must act: do what the reason says. The host needs no restart afterwards";
    /// Two databases have the same store id: this one is a copy, or it was copied.
    Copied = "copied", Retry,
        "nothing is lost: the host joins no consumer group while it would share it with another database. Run `projector adopt` with the configuration of the copy. It first shows both choices: groups of its own (`--new-groups`, for a copy beside its original) or the groups of before (`--keep-groups`, if the original is gone for good). Hosts of the original need nothing";
    /// A statement waited for a lock for longer than the lock timeout.
    Locked = "locked", Retry,
        "nothing is lost, and the host goes on by itself: end the session that holds the lock";
    /// Two transactions waited for each other's locks, and the database ended the host's transaction.
    Deadlock = "deadlock", Retry,
        "nothing is lost, and the host goes on by itself: the database's log names both statements. Let other sessions that write the same rows commit sooner";
    /// A statement ran for longer than the statement timeout: the batch is too large, or the database is slow.
    Slow = "slow", Retry,
        "nothing is lost, and the host goes on by itself, with fewer events at once: check what the database is doing, or raise the store's `statement-timeout`";
    /// The brokers do not answer.
    Brokers = "brokers", Retry,
        "nothing is lost, and the host goes on by itself: check the brokers, and the network to them";
    /// The brokers answer, but the host lacks a right.
    Denied = "denied", Retry,
        "nothing is lost: grant the right that the reason names. The projection goes on then, without a restart";
    /// A topic that the projection reads does not exist.
    NoTopic = "no-topic", Retry,
        "nothing is lost: create the topic, or correct its name under `[kafka.topics]`. Once it exists, it is read without a restart";
    /// A topic was deleted of which events are in the read model.
    TopicDeleted = "topic-deleted", Retry,
        "the projection goes on with its other topics, and keeps the rows that it has. A topic that is created anew under this name is another log, and is not read into these rows: create it with the events that are to count, then run `projector rebuild`. If the topic is not needed any more, deploy a version that does not declare it";
    /// The brokers refuse this host because of its login, its certificate or its place in the group.
    Login = "login", Retry,
        "nothing is lost, but a person must act: correct `[kafka]` in the configuration as the reason says";
    /// The brokers are older than the host supports.
    Unsupported = "unsupported", Retry,
        "nothing is lost, but a person must act: use brokers of Kafka 2.8 or newer";
    /// A task of the host panicked.
    Crash = "crash", Retry,
        "nothing is lost, and the task is started again: this is a bug in Projector. Report it with the lines of the log around it";
    /// A component could not be compiled for a reason that lies with this machine.
    Machine = "machine", Retry,
        "the host goes on by itself: check this machine's memory, processes and temporary files";

    /// The plugin rejected the event.
    Rejected = "rejected", Policy,
        "correct the cause of the event, or deploy a plugin that accepts it; then `projector dlq retry`, or `discard`";
    /// The plugin trapped: in Rust, it panicked.
    Trap = "trap", Policy,
        "a bug in the plugin: deploy a version without it, then `projector dlq retry`";
    /// The plugin exceeded a limit.
    Limit = "limit", Policy,
        "raise the projection's limit, or make the plugin need less; then `projector dlq retry`";
    /// A statement of this event alone exceeds the statement timeout, again and again.
    TooSlow = "too-slow", Policy,
        "find out why (an index is missing, a trigger, one row that all events write), or raise the store's `statement-timeout`; then `projector dlq retry`";
    /// The record's value is larger than `kafka.value-bytes`.
    TooLarge = "too-large", Policy,
        "the value was left in the log: raise `kafka.value-bytes` above it and restart the hosts. Then `projector dlq retry` reads it from the log again, while the log holds it. Or `projector dlq discard` it";
    /// The plugin answered with something that it did not declare or that no database can hold, or the record
    /// holds something that no plugin can be given.
    Invalid = "invalid", Policy,
        "correct what the detail names: a bug in the plugin, a value that does not fit its column, or the record's producer; then `projector dlq retry`, or `discard`";
    /// The event needs a row that was not written in time.
    NotYet = "not-yet", Policy,
        "find out what became of the event that brings the row. When the row is there, `projector dlq retry`, or else `discard`";
    /// The database refused the event's rows.
    Refused = "refused", Policy,
        "correct the data, or the constraint that the reason names; then `projector dlq retry`";

    /// A call exceeded its wall time before its fuel: because of the machine as likely as of the plugin.
    Timeout = "timeout", Pause,
        "give the machine more room, or raise `limits.time`; then `projector resume`";
    /// The log is not the one that the checkpoint belongs to.
    Log = "log", Pause,
        "bring the log back, then `projector resume`. Events that are lost for good can be passed over with `projector skip`. Another cluster that holds the same events: `projector move-checkpoints`. A topic that was created anew: `projector rebuild`";
    /// The configured start is not in the log, or belongs to a topic that the plugin does not read.
    Start = "start", Pause,
        "correct `[projections.NAME] start` in the configuration, and restart the hosts";
    /// Somebody changed the tables that the host made.
    Drift = "drift", Pause,
        "undo what was changed by hand, then `projector resume`";
    /// An event failed, and the failure policy is `halt`.
    Halted = "halted", Pause,
        "deploy a plugin that accepts the event, or `projector skip` it with a reason; then `projector resume`";
    /// Too many events fail: one after the other, or of the last ones that were read.
    Flood = "flood", Pause,
        "find out what happened to the topic or the plugin (`projector dlq list`), then `projector resume`";
    /// The dead letters or the parked events have reached their bound.
    Full = "full", Pause,
        "retry or discard dead letters (`projector dlq`), or raise the bound; then `projector resume`";
    /// The store cannot be used as it is.
    Store = "store", Pause,
        "do what the reason says, then `projector resume`";
    /// An operator paused the projection.
    Operator = "operator", Pause,
        "`projector resume`, when the reason is gone";

    /// The file is not a plugin that may run.
    Component = "component", Refuse,
        "do what the reason says, and replace the file";

    /// Another host moved the checkpoint.
    Fenced = "fenced", Reposition,
        "nothing to do: this keeps two hosts from writing the same event";
    /// Another component became the active one.
    Superseded = "superseded", Reposition,
        "nothing to do: the projection goes on with the active component";
    /// The generation's checkpoints are held, while generations are compared or switched.
    Held = "held", Reposition,
        "nothing to do: the projection goes on within seconds";
}

/// The advice for a failure that has lasted for so long does not say that the host goes on by itself.
pub const LASTING: Duration = Duration::from_secs(60);

impl FailureKind {
    /// What an operator does about a failure that has lasted for `time`.
    pub fn advice_after(self, time: Duration) -> &'static str {
        match self {
            _ if time < LASTING => self.advice(),
            FailureKind::Database => {
                "nothing is lost, and the host keeps trying: check the read-model database"
            }
            FailureKind::Locked => {
                "nothing is lost, and the host keeps trying: end the session that holds the lock"
            }
            FailureKind::Slow => {
                "nothing is lost, and the host keeps trying: check what the database is doing, or raise the store's `statement-timeout`"
            }
            FailureKind::Deadlock => {
                "nothing is lost, and the host keeps trying: the database's log names both statements. Let other sessions that write the same rows commit sooner"
            }
            FailureKind::Brokers => {
                "nothing is lost, and the host keeps trying: check the brokers, and the network to them"
            }
            FailureKind::Machine => {
                "the host keeps trying: check this machine's memory, processes and temporary files"
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

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Why something stands still, for whoever looks. It may have done so for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    pub kind: FailureKind,
    pub reason: String,
}

impl Blocker {
    pub fn new(kind: FailureKind, reason: impl fmt::Display) -> Self {
        // No database holds a NUL in a text.
        Self { kind, reason: reason.to_string().replace('\0', "\\0") }
    }

    /// What an operator does about it.
    pub fn advice(&self) -> &'static str {
        self.kind.advice_after(LASTING)
    }

    /// As it was stored. A word of a later version stands for the store's own trouble.
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
    fn what_lasts_is_not_said_to_go_on_by_itself() {
        for kind in FailureKind::ALL {
            let (at_first, later) = (kind.advice(), kind.advice_after(LASTING));
            assert!(!later.contains("goes on by itself"), "{kind}: {later}");
            assert_eq!(at_first == later, !at_first.contains("goes on by itself"), "{kind}");
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
