//! Topics: what their events may lead to, how a producer's duplicates are recognised, and how long events may wait.

use super::names::{label, place, unique};
use crate::contract::{EventId, Topic};
use crate::descriptor::{self, Descriptor, IdPart};
use crate::problem::Report;

/// Kafka's own limit.
const MAX_TOPIC_BYTES: usize = 249;

pub(super) fn resolve(report: &mut Report, descriptor: &Descriptor) -> Vec<Topic> {
    if descriptor.topics.is_empty() {
        report.add("topics", "a projection needs at least one topic", "declare the topics that it reads");
    }
    unique(report, "topics", descriptor.topics.iter().map(|topic| topic.name.as_str()));
    let statements: Vec<&str> =
        descriptor.statements.iter().map(|statement| statement.name.as_str()).collect();
    let lookups: Vec<&str> = descriptor.lookups.iter().map(|lookup| lookup.name.as_str()).collect();
    descriptor
        .topics
        .iter()
        .enumerate()
        .map(|(at, topic)| {
            let place = place("topics", at, &topic.name);
            check_topic(report, &place, topic);
            let event_id = topic.event_id.as_ref();
            Topic {
                name: topic.name.clone(),
                writes: granted(report, &format!("{place}: statements"), &topic.statements, &statements),
                lookups: granted(report, &format!("{place}: lookups"), &topic.lookups, &lookups),
                event_id: event_id.and_then(|id| self::event_id(report, &format!("{place}: event-id"), id)),
                ordering_group: topic.ordering_group.clone().unwrap_or_else(|| topic.name.clone()),
                wait_seconds: topic.wait_seconds,
            }
        })
        .collect()
}

fn check_topic(report: &mut Report, place: &str, topic: &descriptor::Topic) {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let name = topic.name.as_str();
    if matches!(name, "" | "." | "..") || name.len() > MAX_TOPIC_BYTES || !name.bytes().all(legal) {
        report.add(
            place,
            "Kafka allows no topic with this name",
            format!(
                "write letters, digits, dots, dashes and underscores, at most {MAX_TOPIC_BYTES} characters"
            ),
        );
    }
    if let Some(group) = &topic.ordering_group {
        label(report, &format!("{place}: ordering-group"), group);
    }
    if topic.wait_seconds == Some(0) {
        report.add(
            &format!("{place}: wait-seconds"),
            "an event cannot wait for 0 seconds",
            "write for how many seconds an event may wait for its row, or leave `wait-seconds` out",
        );
    }
}

fn event_id(report: &mut Report, place: &str, id: &descriptor::EventId) -> Option<EventId> {
    let parts = match (&id.header, &id.field, &id.parts[..]) {
        (Some(header), None, []) => vec![IdPart::Header(header.clone())],
        (None, Some(field), []) => vec![IdPart::Field(field.clone())],
        (None, None, [_, ..]) => id.parts.clone(),
        _ => {
            report.add(
                place,
                "an event carries its id in one place, or in several parts",
                "write exactly one of `header`, `field` and `parts`",
            );
            return None;
        }
    };
    let repeated = parts.iter().enumerate().find(|(at, part)| parts[..*at].contains(part));
    if let Some((at, _)) = repeated {
        report.add(
            &format!("{place}: parts[{at}]"),
            "this part of the id is listed twice",
            "list each part once",
        );
    }
    if id.window_seconds == 0 {
        report.add(
            &format!("{place}: window-seconds"),
            "an id that is remembered for 0 seconds recognises no duplicate",
            "write how many seconds after an event its duplicate may arrive",
        );
    }
    Some(EventId { parts, window_seconds: id.window_seconds })
}

/// For each declared name: whether the topic lists it.
fn granted(report: &mut Report, place: &str, listed: &[String], declared: &[&str]) -> Vec<bool> {
    let mut granted = vec![false; declared.len()];
    for name in listed {
        match declared.iter().position(|declared| declared == name) {
            Some(index) => granted[index] = true,
            None => {
                let known = declared.iter().copied();
                report.add_unknown(place, format!("{name:?} is not declared"), name, known);
            }
        }
    }
    granted
}
