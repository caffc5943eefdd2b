//! Who holds which partitions, as the group's coordinator says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{PATIENCE, Platform, eventually};

/// By member: its client's id, and the topics and numbers of its partitions.
pub(crate) type Holdings = BTreeMap<String, (String, Vec<(String, i32)>)>;

impl Platform {
    /// Waits until the group has this many members, and each holds a partition.
    #[track_caller]
    pub(crate) fn until_shared_by(&self, group: &str, members: usize) -> Holdings {
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", self.brokers()).create().unwrap();
        eventually(&format!("{members} hosts share the partitions of {group}"), || {
            let holds = holdings(&client, group);
            let shared =
                holds.len() == members && holds.values().all(|(_, partitions)| !partitions.is_empty());
            if shared { Ok(holds) } else { Err(holds) }
        })
    }
}

/// Puts a member out of its group, in its own name: it is not asked.
pub(crate) fn put_out(brokers: &str, group: &str, member: &str) {
    let mut request = Vec::new();
    // LeaveGroup, version 0, correlation, client id.
    for number in [13_i16, 0, 0, 0] {
        request.extend(number.to_be_bytes());
    }
    for text in ["test", group, member] {
        request.extend((text.len() as i16).to_be_bytes());
        request.extend(text.as_bytes());
    }
    let mut broker = TcpStream::connect(brokers).unwrap();
    broker.write_all(&(request.len() as i32).to_be_bytes()).unwrap();
    broker.write_all(&request).unwrap();
    // Length, correlation, error code.
    let mut answer = [0; 10];
    broker.read_exact(&mut answer).unwrap();
    assert_eq!(answer[8..], [0, 0], "{member} was not put out of {group}");
}

/// Empty while the group rebalances.
fn holdings(client: &BaseConsumer, group: &str) -> Holdings {
    // A coordinator that is being elected gives no list.
    let Ok(list) = client.fetch_group_list(Some(group), PATIENCE) else { return Holdings::new() };
    let members =
        list.groups().iter().filter(|group| group.state() == "Stable").flat_map(|group| group.members());
    members
        .map(|member| {
            let assigned = assigned(member.assignment().unwrap_or_default()).unwrap_or_default();
            (member.id().to_owned(), (member.client_id().to_owned(), assigned))
        })
        .collect()
}

/// The partitions in an assignment of the consumer protocol: a version, then topics with their
/// partitions.
fn assigned(assignment: &[u8]) -> Option<Vec<(String, i32)>> {
    struct Bytes<'a>(&'a [u8]);
    impl<'a> Bytes<'a> {
        fn take(&mut self, count: i32) -> Option<&'a [u8]> {
            let (bytes, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
            self.0 = rest;
            Some(bytes)
        }

        fn number(&mut self, bytes: i32) -> Option<i32> {
            Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | i32::from(*byte)))
        }
    }
    let mut bytes = Bytes(assignment);
    bytes.number(2)?;
    let mut partitions = Vec::new();
    for _ in 0..bytes.number(4)? {
        let length = bytes.number(2)?;
        let topic = String::from_utf8_lossy(bytes.take(length)?).into_owned();
        for _ in 0..bytes.number(4)? {
            partitions.push((topic.clone(), bytes.number(4)?));
        }
    }
    Some(partitions)
}
