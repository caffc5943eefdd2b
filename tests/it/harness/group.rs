//! Who holds which partitions, as the group's coordinator says.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{PATIENCE, Platform, eventually};

impl Platform {
    /// Waits until the group has this many members, and each holds a partition.
    #[track_caller]
    pub(crate) fn until_shared_by(&self, group: &str, members: usize) {
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", self.brokers()).create().unwrap();
        eventually(&format!("{members} hosts share the partitions of {group}"), || {
            let holds = partitions_by_member(&client, group);
            let shared = holds.len() == members && holds.values().all(|partitions| *partitions > 0);
            if shared { Ok(()) } else { Err(holds) }
        });
    }
}

/// Empty while the group rebalances.
fn partitions_by_member(client: &BaseConsumer, group: &str) -> BTreeMap<String, i32> {
    // A coordinator that is being elected gives no list.
    let Ok(list) = client.fetch_group_list(Some(group), PATIENCE) else { return BTreeMap::new() };
    let members =
        list.groups().iter().filter(|group| group.state() == "Stable").flat_map(|group| group.members());
    members
        .map(|member| (member.id().to_owned(), assigned(member.assignment().unwrap_or_default())))
        .collect()
}

/// The number of partitions in an assignment of the consumer protocol: a version, then topics with
/// their partitions.
fn assigned(assignment: &[u8]) -> i32 {
    struct Bytes<'a>(&'a [u8]);
    impl Bytes<'_> {
        fn number<const N: usize>(&mut self) -> Option<i32> {
            let (bytes, rest) = self.0.split_at_checked(N)?;
            self.0 = rest;
            Some(bytes.iter().fold(0, |number, byte| number << 8 | i32::from(*byte)))
        }

        fn skip(&mut self, bytes: i32) -> Option<()> {
            self.0 = self.0.get(usize::try_from(bytes).ok()?..)?;
            Some(())
        }
    }
    let count = || {
        let mut bytes = Bytes(assignment);
        bytes.number::<2>()?;
        let mut partitions = 0;
        for _ in 0..bytes.number::<4>()? {
            let name = bytes.number::<2>()?;
            bytes.skip(name)?;
            let here = bytes.number::<4>()?;
            bytes.skip(4 * here)?;
            partitions += here;
        }
        Some(partitions)
    };
    count().unwrap_or(0)
}
