//! Maps logical topics to physical topics: one, several, or all that match a pattern. Pure.
//!
//! A plugin declares logical topics. The configuration says which physical topics each of them is in Kafka
//! ([`PhysicalTopics`]). A projection has one mapping for all topics that it declares ([`TopicMapping`]).
//!
//! The host resolves patterns itself, from the names of the existing topics, and subscribes to names only.
//! So a pattern has one meaning: librdkafka's regular expressions, the Java client's and those of ACLs
//! differ in what an unanchored pattern matches.
//!
//! Invariants: each name is a legal topic name; a list has at least one name, without duplicates, sorted; a
//! pattern matches whole names, and none of the internal topics of brokers or of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The topic name in checkpoints that stands for the file of `projector backfill`.
pub const FILE_TOPIC: &str = "backfill";

/// Kafka's longest topic name, in characters.
const MOST_CHARACTERS: usize = 249;
/// Most memory of a compiled pattern.
const PATTERN_BYTES: usize = 1024 * 1024;

/// Why a value in `[kafka.topics]` is not valid, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("the list of physical topics is empty: name at least one topic")]
    NoNames,
    #[error("the list of physical topics names `{0}` twice")]
    Twice(String),
    #[error("`{0}` is a pattern, not a topic's name: write {{ pattern = '{0}' }}")]
    PatternAsName(String),
    #[error(
        "`{0}` is not a legal name of a Kafka topic: use 1 to {MOST_CHARACTERS} of the characters a-z, A-Z, 0-9, `.`, `_` and `-`"
    )]
    Illegal(String),
    #[error("`{0}` is a topic that Kafka keeps for itself: no projection can read it")]
    Internal(String),
    #[error(
        "a topic cannot have the name `{FILE_TOPIC}`: this name stands for the file of `projector backfill`"
    )]
    File,
    #[error(
        "the pattern `{0}` must begin with ^ and end with $, since a pattern matches whole names; .*$ allows any ending"
    )]
    NotAnchored(String),
    #[error("the pattern `{pattern}` is not a regular expression: {reason}")]
    Unsound { pattern: String, reason: String },
    #[error("the pattern `{0}` is too large: use shorter repetitions")]
    TooLarge(String),
    #[error(
        "the pattern `{pattern}` matches the internal topic `{matched}`: begin the pattern with the prefix of your topics"
    )]
    TooWide { pattern: String, matched: &'static str },
}

/// The physical topics of a logical topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PhysicalTopics {
    /// These topics. Sorted.
    Named(Vec<String>),
    /// All topics that match, also topics that are created later.
    Matching(TopicPattern),
}

impl PhysicalTopics {
    /// The topic of this name.
    pub fn named(name: &str) -> Result<Self, TopicError> {
        Self::listed([name])
    }

    pub fn listed<N: Deref<Target = str>>(names: impl IntoIterator<Item = N>) -> Result<Self, TopicError> {
        let mut sorted = BTreeSet::new();
        for name in names {
            check_name(&name)?;
            if !sorted.insert((*name).to_owned()) {
                return Err(TopicError::Twice((*name).to_owned()));
            }
        }
        match sorted.is_empty() {
            true => Err(TopicError::NoNames),
            false => Ok(Self::Named(sorted.into_iter().collect())),
        }
    }

    pub fn matching(pattern: &str) -> Result<Self, TopicError> {
        TopicPattern::new(pattern).map(Self::Matching)
    }

    /// Whether a physical topic is one of them.
    pub fn include(&self, physical: &str) -> bool {
        match self {
            Self::Named(names) => names.iter().any(|name| name == physical),
            Self::Matching(pattern) => pattern.matches(physical),
        }
    }

    /// The names that are listed; none for a pattern.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Named(names) => names,
            Self::Matching(_) => &[],
        }
    }
}

impl fmt::Display for PhysicalTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(names) => f.write_str(&names.join(", ")),
            Self::Matching(pattern) => write!(f, "topics that match {}", pattern.text),
        }
    }
}

fn check_name(name: &str) -> Result<(), TopicError> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.starts_with('^') {
        return Err(TopicError::PatternAsName(name.to_owned()));
    }
    if name.is_empty()
        || name.len() > MOST_CHARACTERS
        || !name.bytes().all(is_legal)
        || name == "."
        || name == ".."
    {
        return Err(TopicError::Illegal(name.to_owned()));
    }
    if INTERNAL_TOPICS.contains(&name) {
        return Err(TopicError::Internal(name.to_owned()));
    }
    if name == FILE_TOPIC {
        return Err(TopicError::File);
    }
    Ok(())
}

/// Internal topics of brokers.
const INTERNAL_TOPICS: [&str; 4] =
    ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];

/// A regular expression over whole names of topics: `^tenant-[a-z]+\.orders$`.
///
/// The syntax is that of Rust's `regex`, over ASCII. The size of the compiled pattern is bounded, and
/// matching takes linear time.
#[derive(Clone)]
pub struct TopicPattern {
    text: String,
    /// Matches a whole name.
    expression: Regex,
}

impl TopicPattern {
    fn new(text: &str) -> Result<Self, TopicError> {
        let own = || text.to_owned();
        if !text.starts_with('^') || !text.ends_with('$') || text.ends_with("\\$") {
            return Err(TopicError::NotAnchored(own()));
        }
        let compiled = |expression: &str| {
            RegexBuilder::new(expression).unicode(false).size_limit(PATTERN_BYTES).build().map_err(|error| {
                match error {
                    regex::Error::CompiledTooBig(_) => TopicError::TooLarge(own()),
                    error => TopicError::Unsound { pattern: own(), reason: last_line(&error.to_string()) },
                }
            })
        };
        // Compiled alone first, so that the text around it below cannot make an invalid pattern valid.
        compiled(text)?;
        // Each alternative must match the whole name.
        let expression = compiled(&format!(r"\A(?:{text})\z"))?;
        if let Some(internal) = INTERNAL_TOPICS.iter().find(|name| expression.is_match(name.as_bytes())) {
            return Err(TopicError::TooWide { pattern: own(), matched: internal });
        }
        if expression.is_match(FILE_TOPIC.as_bytes()) {
            return Err(TopicError::TooWide { pattern: own(), matched: FILE_TOPIC });
        }
        Ok(Self { text: own(), expression })
    }

    /// Whether the pattern matches a whole name. Names that begin with `__` never match: Kafka and its
    /// tools use them for internal topics.
    pub fn matches(&self, name: &str) -> bool {
        !name.starts_with("__") && self.expression.is_match(name.as_bytes())
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TopicPattern").field(&self.text).finish()
    }
}

impl PartialEq for TopicPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for TopicPattern {}

/// The message of an error, without the lines that show the place in the expression.
fn last_line(error: &str) -> String {
    error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

impl Serialize for PhysicalTopics {
    /// A name, a list of names, or `{"pattern": …}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Named(names) if names.len() == 1 => names[0].serialize(serializer),
            Self::Named(names) => names.serialize(serializer),
            Self::Matching(pattern) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("pattern", &pattern.text)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for PhysicalTopics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PhysicalTopicsVisitor::<String>(PhantomData))
    }
}

/// Reads [`PhysicalTopics`] with strings of type `S`: those of the configuration may contain variables.
pub struct PhysicalTopicsVisitor<S>(pub PhantomData<S>);

impl<'de, S: Deserialize<'de> + Deref<Target = str>> Visitor<'de> for PhysicalTopicsVisitor<S> {
    type Value = PhysicalTopics;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a topic's name, a list of names, or { pattern = '^…$' }")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let name = S::deserialize(IntoDeserializer::<'de, E>::into_deserializer(name.to_owned()))?;
        PhysicalTopics::named(&name).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut names: Vec<S> = Vec::new();
        while let Some(name) = list.next_element()? {
            names.push(name);
        }
        PhysicalTopics::listed(names).map_err(A::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table<S> {
            pattern: S,
        }
        let table = Table::<S>::deserialize(MapAccessDeserializer::new(map))?;
        PhysicalTopics::matching(&table.pattern).map_err(A::Error::custom)
    }
}

/// The physical topics of all logical topics of a projection. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMapping {
    /// Logical names, in the order of the contract's.
    declared: Arc<[(String, PhysicalTopics)]>,
}

impl TopicMapping {
    /// In the order of the contract's topics.
    pub fn new(declared: impl IntoIterator<Item = (String, PhysicalTopics)>) -> Self {
        Self { declared: declared.into_iter().collect() }
    }

    /// A mapping in which each logical topic has the same name in Kafka.
    pub fn same_names<N: Into<String>>(logical: impl IntoIterator<Item = N>) -> Self {
        Self::new(logical.into_iter().map(|name| {
            let name = name.into();
            (name.clone(), PhysicalTopics::Named(vec![name]))
        }))
    }

    /// Logical topics and their physical topics, in the order of the contract.
    pub fn declared(&self) -> &[(String, PhysicalTopics)] {
        &self.declared
    }

    /// The same by logical name. A generation stores what it is built from in this form.
    pub fn by_name(&self) -> BTreeMap<String, PhysicalTopics> {
        self.declared.iter().cloned().collect()
    }

    /// The indices, in the contract, of the logical topics that a physical topic belongs to. Empty if it is
    /// not read.
    pub fn places(&self, physical: &str) -> Vec<u16> {
        let own = self.declared.iter().enumerate().filter(|(_, (_, topics))| topics.include(physical));
        own.map(|(at, _)| at as u16).collect()
    }

    pub fn reads(&self, physical: &str) -> bool {
        self.declared.iter().any(|(_, topics)| topics.include(physical))
    }

    /// Whether a pattern is used, so that the topics depend on which topics exist.
    pub fn has_patterns(&self) -> bool {
        self.declared.iter().any(|(_, topics)| matches!(topics, PhysicalTopics::Matching(_)))
    }

    /// Every physical topic that is read, if `existing` are the existing ones: all that are named, existing
    /// or not, and all that match. Sorted, without duplicates.
    pub fn topics<N: AsRef<str>>(&self, existing: impl IntoIterator<Item = N>) -> Vec<Arc<str>> {
        let named = self.declared.iter().flat_map(|(_, topics)| topics.names());
        let mut all: BTreeSet<Arc<str>> = named.map(|name| name.as_str().into()).collect();
        let matching = existing.into_iter().filter(|name| self.reads(name.as_ref()));
        all.extend(matching.map(|name| Arc::from(name.as_ref())));
        all.into_iter().collect()
    }

    /// The logical topics that a physical topic belongs to, in declared order.
    pub fn logical(&self, physical: &str) -> impl Iterator<Item = &str> {
        let own = self.declared.iter().filter(move |(_, topics)| topics.include(physical));
        own.map(|(logical, _)| logical.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(json: &str) -> Result<PhysicalTopics, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_a_list_and_a_pattern_come_back_as_they_were_written() {
        for json in [r#""a.b""#, r#"["a","b-c"]"#, r#"{"pattern":"^tenant-[a-z]+\\.orders$"}"#] {
            assert_eq!(serde_json::to_string(&parsed(json).unwrap()).unwrap(), json);
        }
        // A list is a set; a list of one name is that name.
        assert_eq!(parsed(r#"["b","a"]"#), parsed(r#"["a","b"]"#));
        assert_eq!(parsed(r#"["a"]"#), parsed(r#""a""#));
    }

    #[test]
    fn what_cannot_be_a_topic_is_refused_with_what_to_write() {
        let long = format!("\"{}\"", "a".repeat(250));
        let huge = format!(r#"{{"pattern":"^({}){{500}}$"}}"#, "[a-z]{500}");
        for (json, expected) in [
            ("[]", "name at least one topic"),
            (r#"["a","b","a"]"#, "names `a` twice"),
            (r#""^a.*""#, "write { pattern = '^a.*' }"),
            (r#"["a","^b"]"#, "write { pattern = '^b' }"),
            (r#""a b""#, "not a legal name"),
            (r#""""#, "not a legal name"),
            (r#""..""#, "not a legal name"),
            (&long, "not a legal name"),
            (r#""__consumer_offsets""#, "Kafka keeps for itself"),
            (r#""backfill""#, "projector backfill"),
            (r#"{"pattern":"orders"}"#, "must begin with ^ and end with $"),
            (r#"{"pattern":"^orders"}"#, "must begin with ^ and end with $"),
            (r#"{"pattern":"^orders\\$"}"#, "must begin with ^ and end with $"),
            (r#"{"pattern":"^(orders$"}"#, "not a regular expression: unclosed group"),
            (r#"{"pattern":"^.*$"}"#, "matches the internal topic `__consumer_offsets`"),
            (r#"{"pattern":"^_+[a-z]+_state$"}"#, "matches the internal topic `__transaction_state`"),
            (r#"{"pattern":"^[a-z]+$"}"#, "matches the internal topic `backfill`"),
            (&huge, "too large"),
            (r#"{"patern":"^a$"}"#, "unknown field `patern`"),
            ("3", "a topic's name, a list of names, or { pattern"),
        ] {
            let error = parsed(json).expect_err(json);
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn a_pattern_is_about_whole_names() {
        let pattern = PhysicalTopics::matching(r"^tenant-[a-z]+\.orders$").unwrap();
        for (name, included) in [
            ("tenant-a.orders", true),
            ("tenant-abc.orders", true),
            ("tenant-a.orders.dlt", false),
            ("old-tenant-a.orders", false),
            ("tenant-.orders", false),
            ("tenant-a.orders\n", false),
        ] {
            assert_eq!(pattern.include(name), included, "{name}");
        }
        // Each alternative, although ^ and $ stand at the ends only; a longer one too.
        let longer = PhysicalTopics::matching("^a|ab$").unwrap();
        assert!(longer.include("a") && longer.include("ab") && !longer.include("abc"));
        assert!(PhysicalTopics::matching("^a)|(b$").is_err());
        let either = PhysicalTopics::matching("^eu.orders|us.orders$").unwrap();
        assert!(either.include("eu.orders") && either.include("us.orders") && !either.include("eu.orders.x"));
    }

    fn mapping() -> TopicMapping {
        TopicMapping::new([
            ("orders".to_owned(), PhysicalTopics::listed(["eu.orders", "us.orders"]).unwrap()),
            ("every".to_owned(), PhysicalTopics::matching(r"^[a-z]{2}\.[a-z]+$").unwrap()),
            ("plain".to_owned(), PhysicalTopics::named("plain").unwrap()),
        ])
    }

    #[test]
    fn a_topic_belongs_to_each_logical_topic_that_includes_it() {
        let mapping = mapping();
        assert_eq!(mapping.places("eu.orders"), [0, 1]);
        assert_eq!(mapping.places("eu.customers"), [1]);
        assert_eq!(mapping.places("plain"), [2]);
        assert!(mapping.places("tenant").is_empty() && !mapping.reads("tenant"));
        assert_eq!(mapping.logical("eu.orders").collect::<Vec<_>>(), ["orders", "every"]);
    }

    #[test]
    fn named_topics_are_always_read_and_matching_topics_if_they_exist() {
        let topics = mapping().topics(["us.customers", "tenant", "us.orders"]);
        assert_eq!(
            topics.iter().map(|topic| &**topic).collect::<Vec<_>>(),
            ["eu.orders", "plain", "us.customers", "us.orders"]
        );
        assert!(mapping().has_patterns() && !TopicMapping::same_names(["a"]).has_patterns());
    }

    proptest! {
        /// Every value is refused, or includes only topics that a projection may read.
        #[test]
        fn an_accepted_value_includes_no_internal_topic(
            pattern in r"\^[a-z_.*+?|()\[\]{},0-9\\-]{0,12}\$",
            name in "_{0,3}[a-z.]{1,6}",
        ) {
            if let Ok(topics) = PhysicalTopics::matching(&pattern) {
                prop_assert!(INTERNAL_TOPICS.iter().all(|internal| !topics.include(internal)));
                prop_assert!(!topics.include(FILE_TOPIC));
                prop_assert!(!(name.starts_with("__") && topics.include(&name)), "{} includes {}", pattern, name);
            }
            if let Ok(topics) = PhysicalTopics::named(&name) {
                prop_assert!(topics.include(&name));
            }
        }

        /// A topic is read exactly if it has a place, and is among all topics if it exists.
        #[test]
        fn places_and_topics_agree(name in "(eu|us|x)\\.?(orders|plain|c)") {
            let mapping = mapping();
            prop_assert_eq!(mapping.reads(&name), !mapping.places(&name).is_empty());
            let topics = mapping.topics([&name]);
            prop_assert!(topics.iter().any(|topic| **topic == *name) == mapping.reads(&name));
        }
    }
}
