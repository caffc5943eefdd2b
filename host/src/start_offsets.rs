//! The offset at which a generation starts to read a partition for which it has no checkpoint.
//!
//! [`start_offset`] decides, and is pure. [`Starts::find`] asks the brokers for what it needs.
//!
//! The configured start (`[projections.NAME] start`) applies to the partitions that existed when the generation
//! started. A partition that is added later is read from its beginning. The offset is stored as the first checkpoint,
//! and is never decided again.

use std::fmt;

use projector_config::{Config, Start, StartAt};
use projector_core::checkpoint::{Identity, Watermarks};
use projector_core::event::Partition;
use projector_core::topics::TopicMapping;
use projector_kafka::{KafkaAdmin, LogError};
use projector_model::nearest;
use projector_store::checkpoints::EarlierStarts;

/// The configured start of a projection.
#[derive(Debug, Clone)]
pub struct Starts {
    configured: Start,
    topics: TopicMapping,
}

impl Starts {
    pub fn of(config: &Config, projection: &str, topics: &TopicMapping) -> Self {
        Self { configured: config.start_of(projection), topics: topics.clone() }
    }

    /// The configured start of a physical topic. The configuration may use the topic's own name, or the name of its
    /// first logical topic. A topic that the projection does not declare starts at its beginning.
    pub fn of_topic(&self, topic: &str) -> StartAt {
        let is_named = self.configured.topics().any(|named| named == topic);
        match self.topics.logical(topic).next() {
            None => StartAt::Earliest,
            Some(_) if is_named => self.configured.of(topic),
            Some(logical) => self.configured.of(logical),
        }
    }

    pub fn topics(&self) -> &TopicMapping {
        &self.topics
    }

    /// An error text for a configured topic that the plugin does not read, with the most similar name. `None`: the
    /// plugin reads all of them.
    pub fn unknown_topic(&self) -> Option<String> {
        let declared = self.topics.declared();
        let known = || {
            let physical = declared.iter().flat_map(|(_, physical)| physical.names());
            declared.iter().map(|(logical, _)| logical).chain(physical).map(String::as_str)
        };
        let is_known = |name: &str| self.topics.reads(name) || known().any(|known| known == name);
        let unknown = self.configured.topics().find(|name| !is_known(name))?;
        let meant = nearest(unknown, known()).map(|near| format!("; did you mean {near:?}?"));
        Some(format!(
            "`start` names the topic {unknown:?}, which the plugin does not read{}",
            meant.unwrap_or_else(|| {
                let logical: Vec<&str> = declared.iter().map(|(logical, _)| &**logical).collect();
                format!(": it reads {}", logical.join(", "))
            })
        ))
    }

    /// The first offset to read, for a partition that existed when the generation started. `earlier`: where the previous
    /// generations started.
    pub async fn find(
        &self,
        log: &KafkaAdmin,
        partition: &Partition,
        (marks, identity): (Watermarks, &Identity),
        earlier: &EarlierStarts,
    ) -> Result<Result<i64, NotInLog>, LogError> {
        let at = self.of_topic(&partition.topic);
        let found = match &at {
            StartAt::Earliest | StartAt::Offsets(_) => None,
            StartAt::Time(ms) => log.offset_at(partition.clone(), *ms).await?,
            // The topic may be another log now, recreated since the earlier generation started. Then the earlier offset
            // means nothing: start at the beginning, so that no event is missing.
            StartAt::Latest => earlier.get(partition).map(|(offset, of)| match of.differs_from(identity) {
                true => marks.low,
                false => *offset,
            }),
        };
        Ok(start_offset(&at, partition, marks, found))
    }
}

impl fmt::Display for Starts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.configured.fmt(f)
    }
}

/// The first offset to read. `found`: for a time, the offset of the first record at that time or later; for `latest`,
/// where the earlier generation started.
///
/// For a projection's first generation, `latest` is the end of the committed records. For a later generation, it is
/// where the previous generation started: otherwise the new one would miss rows that the previous one has.
pub fn start_offset(
    at: &StartAt,
    partition: &Partition,
    marks: Watermarks,
    found: Option<i64>,
) -> Result<i64, NotInLog> {
    let Watermarks { low, high } = marks;
    match at {
        StartAt::Earliest => Ok(low),
        // Keep the offset within the log. Retention may have removed the records at the found offset. And a record of
        // the given time may be behind an open transaction, beyond the last stable offset (`high`): reading ends there
        // now.
        StartAt::Latest | StartAt::Time(_) => Ok(found.unwrap_or(high).clamp(low, high.max(low))),
        StartAt::Offsets(offsets) => {
            let offset = offsets.get(&partition.number).copied();
            match offset {
                Some(offset) if (low..=high).contains(&offset) => Ok(offset),
                _ => Err(NotInLog { partition: partition.clone(), offset, marks }),
            }
        }
    }
}

/// The configured start is not an offset of the log. The partition is not read until an operator corrects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotInLog {
    pub partition: Partition,
    /// `None`: the configuration has no offset for this partition.
    pub offset: Option<i64>,
    pub marks: Watermarks,
}

impl fmt::Display for NotInLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, offset, marks: Watermarks { low, high } } = self;
        match offset {
            Some(offset) if offset < low => write!(
                f,
                "`start` is offset {offset} of {partition}, but its log begins at {low}: the events before that are gone"
            ),
            Some(offset) => {
                write!(f, "`start` is offset {offset} of {partition}, but its log ends at {high}")
            }
            None => write!(
                f,
                "`start` has offsets for this topic, but none for {partition}: its log goes from {low} to {high}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const MARKS: Watermarks = Watermarks { low: 10, high: 20 };

    fn at(start: &StartAt, found: Option<i64>) -> Result<i64, String> {
        start_offset(start, &Partition::new("t", 1), MARKS, found).map_err(|problem| problem.to_string())
    }

    #[test]
    fn each_start_is_an_offset_of_the_log() {
        assert_eq!(at(&StartAt::Earliest, None), Ok(10));
        assert_eq!(at(&StartAt::Latest, None), Ok(20));
        assert_eq!(at(&StartAt::Latest, Some(12)), Ok(12));
        assert_eq!(at(&StartAt::Latest, Some(4)), Ok(10));
        assert_eq!(at(&StartAt::Time(1), Some(15)), Ok(15));
        assert_eq!(at(&StartAt::Time(1), Some(25)), Ok(20), "behind an open transaction");
        assert_eq!(at(&StartAt::Time(1), None), Ok(20), "all records are older");
    }

    #[test]
    fn an_offset_is_taken_as_it_is_or_refused() {
        let start = |offset| StartAt::Offsets(BTreeMap::from([(1, offset)]));
        for offset in [10, 15, 20] {
            assert_eq!(at(&start(offset), None), Ok(offset));
        }
        assert!(at(&start(9), None).unwrap_err().contains("its log begins at 10"));
        assert!(at(&start(21), None).unwrap_err().contains("its log ends at 20"));
        let other = StartAt::Offsets(BTreeMap::from([(0, 15)]));
        assert!(at(&other, None).unwrap_err().contains("none for t/1"));
    }
}
