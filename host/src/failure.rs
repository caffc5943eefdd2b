//! Every way in which something fails: what happens then, and what an operator does about it.
//!
//! This is the one place for both. Logs, `status` and the dead letters carry the kind, and show the
//! [advice](FailureKind::advice) that stands here.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What the host does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// The same again, later, for as long as it takes. No offset moves, and no event is blamed.
    Retry,
    /// The event was called again alone, in a fresh instance, and failed again: the projection's
    /// [`Policy`](crate::policy::Policy) says what becomes of it.
    Policy,
    /// The partition or the projection stands still until somebody says otherwise.
    Pause,
    /// The component does not run; what ran before goes on.
    Refuse,
    /// What is in flight is void: the checkpoint is read again, and the log from there.
    Reposition,
}

macro_rules! kinds {
    ($($(#[$meaning:meta])* $kind:ident = $word:literal, $response:ident, $advice:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FailureKind { $($(#[$meaning])* $kind,)* }

        impl FailureKind {
            pub const ALL: &[FailureKind] = &[$(FailureKind::$kind),*];

            /// The word that is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(FailureKind::$kind => $word,)* }
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
    /// The read-model database is gone, full, read-only, or out of connections.
    Database = "database", Retry,
        "nothing is lost, and it goes on by itself: see to the read-model database";
    /// The store's settings, its database or a right in it keep the host out, until a person changes that.
    DatabaseSetup = "database-setup", Retry,
        "nothing is lost, but it does not mend itself: do what the reason says; the host needs no restart afterwards";
    /// Another database has the store's id: this one is a copy of it, or it is a copy of this one.
    Copied = "copied", Retry,
        "nothing is lost: the host joins no consumer group as long as it would share it with another database. Run `projector adopt` with the configuration of the copy: it shows both choices first, groups of its own (`--new-groups`, for a copy beside its original) or those of before (`--keep-groups`, where the original is gone for good); hosts of the original need nothing";
    /// A statement waited for a lock longer than it may.
    Locked = "locked", Retry,
        "nothing is lost, and it goes on by itself: end the session that holds the lock";
    /// Two transactions waited for each other's locks, and the database ended the host's.
    Deadlock = "deadlock", Retry,
        "nothing is lost, and it goes on by itself: the database's log names both statements; have other sessions that write the same rows commit sooner";
    /// A statement ran longer than it may: too much at once, or a database that is slow now.
    Slow = "slow", Retry,
        "nothing is lost, and it goes on by itself, with fewer events at once: see what the database is at, or raise the store's `statement-timeout`";
    /// The brokers do not answer.
    Brokers = "brokers", Retry,
        "nothing is lost, and it goes on by itself: see to the brokers, and to the network between";
    /// The brokers answer, and a right is missing.
    Denied = "denied", Retry,
        "nothing is lost: grant the right that the reason names; the projection goes on then, without a restart";
    /// A topic that is to be read does not exist.
    NoTopic = "no-topic", Retry,
        "nothing is lost: create the topic, or mend its name under `[kafka.topics]`; once it exists, it is read without a restart";
    /// A topic does not exist any more of which events are in the read model.
    TopicDeleted = "topic-deleted", Retry,
        "the projection goes on with its other topics, and keeps the rows that it has. A topic that is created anew under this name is another log, and is not read into these rows: create it with the events that are to count, then `projector rebuild`. If the topic is not needed any more: deploy a version that does not declare it";
    /// The brokers refuse this host as it is configured: its login, its certificate, its place in the group.
    Login = "login", Retry,
        "nothing is lost, but it does not pass by itself: mend `[kafka]` in the configuration as the reason says";
    /// The brokers are older than what the host needs.
    Unsupported = "unsupported", Retry,
        "nothing is lost, but it does not pass by itself: use brokers of a release that README names";
    /// A task of the host panicked.
    Crash = "crash", Retry,
        "nothing is lost, and the task is started again: this is a bug in Projector, report it with the lines of the log around it";
    /// A component could not be compiled for a reason that lies with this machine.
    Machine = "machine", Retry,
        "it goes on by itself: see to this machine's memory, processes and temporary files";

    /// The plugin said so.
    Rejected = "rejected", Policy,
        "mend the event's cause, or deploy a plugin that takes it; then `projector dlq retry`, or `discard`";
    /// The plugin broke off.
    Trap = "trap", Policy,
        "a bug in the plugin: deploy a version without it, then `projector dlq retry`";
    /// The plugin used more than it may.
    Limit = "limit", Policy,
        "raise the projection's limit or make the plugin need less, then `projector dlq retry`";
    /// A statement of this event alone runs longer than any may, again and again.
    TooSlow = "too-slow", Policy,
        "find out why (an index is missing, a trigger, one row that all write), or raise the store's `statement-timeout`; then `projector dlq retry`";
    /// The record's value is larger than any may be.
    TooLarge = "too-large", Policy,
        "the value was left in the log: raise `kafka.value-bytes` above it and restart the hosts, then `projector dlq retry` reads it from the log again, while the log holds it; or `projector dlq discard` it";
    /// The plugin answered with what it did not declare, or with what no store can hold; or the record has
    /// what no plugin can be given.
    Invalid = "invalid", Policy,
        "mend what the detail names: a bug in the plugin, a value beyond its column, or the record's producer; then `projector dlq retry`, or `discard`";
    /// The event needs a row that did not come in time.
    NotYet = "not-yet", Policy,
        "find out what became of the event that brings the row; when the row is there, `projector dlq retry`, or else `discard`";
    /// The database refused the event's rows.
    Refused = "refused", Policy,
        "mend the data or the constraint that is named, then `projector dlq retry`";

    /// The wall time ended before the fuel did: the machine's fault as likely as the plugin's.
    Timeout = "timeout", Pause,
        "give the machine room or raise `limits.time`, then `projector resume`";
    /// The log is not the one that the checkpoint is about.
    Log = "log", Pause,
        "bring the log back, then `projector resume`; events that are lost for good can be passed over with `projector skip`. Another cluster that holds the same events: `projector move-checkpoints`. A topic that was created anew: `projector rebuild`";
    /// The configured start is not in the log, or not of a topic that the plugin reads.
    Start = "start", Pause,
        "correct `[projections.NAME] start` in the configuration, and restart the hosts";
    /// The tables are not as the host made them.
    Drift = "drift", Pause,
        "undo what was changed by hand, then `projector resume`";
    /// An event failed, and the policy is to halt.
    Halted = "halted", Pause,
        "deploy a plugin that takes the event, or `projector skip` it with a reason; then `projector resume`";
    /// Too many events fail, one after the other or of those that were read last.
    Flood = "flood", Pause,
        "find out what became of the topic or the plugin (`projector dlq list`), then `projector resume`";
    /// The dead letters or the parked events are as many as they may be.
    Full = "full", Pause,
        "retry or discard dead letters (`projector dlq`), or raise the bound; then `projector resume`";
    /// The store cannot be used as it is.
    Store = "store", Pause,
        "do what the reason says, then `projector resume`";
    /// An operator said so.
    Operator = "operator", Pause,
        "`projector resume`, when the reason is gone";

    /// The file is no plugin that may run.
    Component = "component", Refuse,
        "do what the reason says, and replace the file";

    /// Another host moved the checkpoint.
    Fenced = "fenced", Reposition,
        "nothing: it is what keeps two hosts from writing the same event";
    /// Another component became the active one.
    Superseded = "superseded", Reposition,
        "nothing: the projection goes on with the active component";
    /// Its checkpoints are held, to be compared or switched.
    Held = "held", Reposition,
        "nothing: it goes on within seconds";
}

/// What has lasted for so long is not said to go on by itself.
pub const LASTING: Duration = Duration::from_secs(60);

impl FailureKind {
    /// What an operator does about it, once it has lasted for a time.
    pub fn advice_after(self, time: Duration) -> &'static str {
        match self {
            _ if time < LASTING => self.advice(),
            FailureKind::Database => "nothing is lost, and the host tries on: see to the read-model database",
            FailureKind::Locked => {
                "nothing is lost, and the host tries on: end the session that holds the lock"
            }
            FailureKind::Slow => {
                "nothing is lost, and the host tries on: see what the database is at, or raise the store's `statement-timeout`"
            }
            FailureKind::Deadlock => {
                "nothing is lost, and the host tries on: the database's log names both statements; have other sessions that write the same rows commit sooner"
            }
            FailureKind::Brokers => {
                "nothing is lost, and the host tries on: see to the brokers, and to the network between"
            }
            FailureKind::Machine => {
                "the host tries on: see to this machine's memory, processes and temporary files"
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
pub struct Trouble {
    pub kind: FailureKind,
    pub reason: String,
}

impl Trouble {
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

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.advice())
    }
}

impl Serialize for Trouble {
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
        assert_eq!(Trouble::new(FailureKind::Rejected, "a\0b").reason, "a\\0b");
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
