//! Who the members of a consumer group are, as its coordinator says.

use std::ffi::CString;
use std::time::Instant;

use rdkafka::bindings as native;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;

use super::{Log, LogError, PATIENCE, blocking, text};
use crate::source::errors::{KafkaFault, Subject};

/// A member of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// The broker gave it out.
    pub id: String,
    /// What its client calls itself.
    pub client: String,
    /// Its address, as the coordinator sees it.
    pub host: String,
    /// How many partitions it holds.
    pub partitions: usize,
}

impl Log {
    /// The members of a consumer group. A group that nobody ever joined has none.
    pub async fn group_members(&self, group: &str) -> Result<Vec<GroupMember>, LogError> {
        let (log, group) = (self.clone(), group.to_owned());
        blocking(move || Ok(log.describe_group(&group)?)).await
    }

    /// The safe interface lists all groups of all brokers.
    fn describe_group(&self, group: &str) -> Result<Vec<GroupMember>, KafkaFault> {
        // No group has a NUL in its name.
        let Ok(name) = CString::new(group) else { return Ok(Vec::new()) };
        let clients = self.clients();
        // Tells soon, and with its reason, that no broker answers.
        clients.committed.metadata(Some("__consumer_offsets"))?;
        let client = clients.committed.client.client().native_ptr();
        let fault = |code| self.fault_of(Subject::Group(group.into()), code);
        let mut pointers = [name.as_ptr()];
        // SAFETY: every pointer is used between its creation and its destruction below; what is kept is copied
        // before the event that owns it is destroyed.
        unsafe {
            let queue = native::rd_kafka_queue_new(client);
            let options = native::rd_kafka_AdminOptions_new(
                client,
                native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
            );
            let milliseconds = i32::try_from(PATIENCE.as_millis()).unwrap_or(i32::MAX);
            native::rd_kafka_AdminOptions_set_request_timeout(options, milliseconds, std::ptr::null_mut(), 0);
            native::rd_kafka_DescribeConsumerGroups(
                client,
                pointers.as_mut_ptr(),
                pointers.len(),
                options,
                queue,
            );
            let asked = Instant::now();
            // Its own timeout ends it before; this is for the worst.
            let event = loop {
                let event = native::rd_kafka_queue_poll(queue, milliseconds);
                if !event.is_null() || asked.elapsed() > 2 * PATIENCE {
                    break event;
                }
            };
            let described = if event.is_null() {
                Err(fault(RDKafkaErrorCode::OperationTimedOut))
            } else if native::rd_kafka_event_error(event)
                != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                Err(fault(native::rd_kafka_event_error(event).into()))
            } else {
                let result = native::rd_kafka_event_DescribeConsumerGroups_result(event);
                let mut count = 0;
                let groups = native::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
                match count {
                    0 => Ok(Vec::new()),
                    _ => members(*groups).map_err(fault),
                }
            };
            if !event.is_null() {
                native::rd_kafka_event_destroy(event);
            }
            native::rd_kafka_AdminOptions_destroy(options);
            native::rd_kafka_queue_destroy(queue);
            described
        }
    }
}

/// # Safety
/// `group` belongs to a result that is still alive.
unsafe fn members(
    group: *const native::rd_kafka_ConsumerGroupDescription_t,
) -> Result<Vec<GroupMember>, RDKafkaErrorCode> {
    // SAFETY: as the caller promises; members, strings and partitions belong to the description.
    unsafe {
        let error = native::rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null()
            && native::rd_kafka_error_code(error) != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return match native::rd_kafka_error_code(error).into() {
                // Brokers of newer releases say so of one that does not exist.
                RDKafkaErrorCode::GroupIdNotFound => Ok(Vec::new()),
                code => Err(code),
            };
        }
        let count = native::rd_kafka_ConsumerGroupDescription_member_count(group);
        let member = |at| {
            let member = native::rd_kafka_ConsumerGroupDescription_member(group, at);
            let assignment = native::rd_kafka_MemberDescription_assignment(member);
            let partitions = match assignment.is_null() {
                true => std::ptr::null(),
                false => native::rd_kafka_MemberAssignment_partitions(assignment),
            };
            GroupMember {
                id: text(native::rd_kafka_MemberDescription_consumer_id(member)),
                client: text(native::rd_kafka_MemberDescription_client_id(member)),
                host: text(native::rd_kafka_MemberDescription_host(member)),
                partitions: match partitions.is_null() {
                    true => 0,
                    false => usize::try_from((*partitions).cnt).unwrap_or_default(),
                },
            }
        };
        Ok((0..count).map(member).collect())
    }
}
