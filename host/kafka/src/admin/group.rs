//! The members of a consumer group, as the group's coordinator reports them.

use std::ffi::CString;

use rdkafka::bindings as native;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;

use super::{KafkaAdmin, LogError, REQUEST_TIMEOUT, blocking};
use crate::c_text;
use crate::kafka_fault::{KafkaFault, Subject};

/// A member of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// The member id, which the broker assigned.
    pub id: String,
    /// The client id.
    pub client: String,
    /// Its address, as the coordinator sees it.
    pub host: String,
    /// The number of partitions that are assigned to the member.
    pub partitions: usize,
}

impl KafkaAdmin {
    /// The members of a consumer group. A group that does not exist has none.
    pub async fn group_members(&self, group: &str) -> Result<Vec<GroupMember>, LogError> {
        let (admin, group) = (self.clone(), group.to_owned());
        blocking(move || Ok(admin.describe_group(&group)?)).await
    }

    /// Asks every broker for its groups, and the group's coordinator for the members.
    ///
    /// `rd_kafka_DescribeConsumerGroups` would ask only the coordinator. But in that function, librdkafka 2.12 uses
    /// freed memory after a timeout or a broken connection, and the process crashes or hangs
    /// (confluentinc/librdkafka#4605). This function calls `rd_kafka_list_groups` directly, because rdkafka's wrapper
    /// of it panics at a name that is not UTF-8.
    fn describe_group(&self, group: &str) -> Result<Vec<GroupMember>, KafkaFault> {
        // No group has a NUL in its name.
        let Ok(name) = CString::new(group) else { return Ok(Vec::new()) };
        let clients = self.clients();
        // If no broker answers, this request fails early and with the reason.
        clients.committed.metadata(Some("__consumer_offsets"))?;
        let client = clients.committed.client.client().native_ptr();
        let fault = |code| self.fault_of(Subject::Group(group.into()), code);
        let milliseconds = i32::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
        let mut list = std::ptr::null();
        // SAFETY: the client is open, and the name outlives the call. The list is destroyed once it is copied.
        unsafe {
            let code = native::rd_kafka_list_groups(client, name.as_ptr(), &mut list, milliseconds);
            // If only some brokers answered in time, there is still a list of their groups.
            if list.is_null() {
                return Err(fault(code.into()));
            }
            let found = members(list);
            native::rd_kafka_group_list_destroy(list);
            found.map_err(fault)
        }
    }
}

/// # Safety
/// `list` is alive.
unsafe fn members(list: *const native::rd_kafka_group_list) -> Result<Vec<GroupMember>, RDKafkaErrorCode> {
    let mut found = Vec::new();
    // SAFETY: as the caller promises; groups and members belong to the list, and are as many as it says.
    unsafe {
        for at in 0..usize::try_from((*list).group_cnt).unwrap_or_default() {
            let group = &*(*list).groups.add(at);
            if group.err != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err(group.err.into());
            }
            for at in 0..usize::try_from(group.member_cnt).unwrap_or_default() {
                let member = &*group.members.add(at);
                let assignment = match usize::try_from(member.member_assignment_size) {
                    Ok(size @ 1..) if !member.member_assignment.is_null() => {
                        std::slice::from_raw_parts(member.member_assignment.cast::<u8>(), size)
                    }
                    _ => &[],
                };
                found.push(GroupMember {
                    id: c_text::copy(member.member_id),
                    client: c_text::copy(member.client_id),
                    host: c_text::copy(member.client_host),
                    partitions: partition_count(assignment).unwrap_or_default(),
                });
            }
        }
    }
    Ok(found)
}

/// The number of partitions in an assignment of the consumer protocol: a version, then for each topic its
/// name and the numbers of its partitions. All numbers are big-endian. `None` if the bytes have another
/// form.
fn partition_count(mut bytes: &[u8]) -> Option<usize> {
    let mut take = |count: usize| {
        let (taken, rest) = bytes.split_at_checked(count)?;
        bytes = rest;
        Some(taken)
    };
    let _version = take(2)?;
    let topics = i32::from_be_bytes(take(4)?.try_into().ok()?);
    let mut partitions = 0;
    for _ in 0..topics {
        let name = i16::from_be_bytes(take(2)?.try_into().ok()?);
        take(usize::try_from(name).ok()?)?;
        let numbers = usize::try_from(i32::from_be_bytes(take(4)?.try_into().ok()?)).ok()?;
        take(numbers.checked_mul(4)?)?;
        partitions += numbers;
    }
    Some(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partitions_of_an_assignment_are_counted() {
        let bytes =
            b"\0\x01\0\0\0\x02\0\x02ab\0\0\0\x02\0\0\0\0\0\0\0\x05\0\x01c\0\0\0\x01\0\0\0\x07\0\0\0\0";
        assert_eq!(partition_count(bytes), Some(3));
        assert_eq!(partition_count(b"\0\x01\0\0\0\0\xff\xff\xff\xff"), Some(0));
        for short in 0..bytes.len() - 4 {
            assert_eq!(partition_count(&bytes[..short]), None, "{short} bytes");
        }
        assert_eq!(partition_count(b""), None);
    }
}
