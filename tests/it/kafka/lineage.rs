//! In a table with lineage, every row names the event that wrote it last, as it lies in the topic, and
//! the component.

use projector_workload::topics::{self, Topic};
use projector_workload::{Publisher, Record};

use crate::harness::{Platform, ReadModel, rows};

const ANCESTORS: &str = "ancestors-guest";
const BORN: &str = "person.born.v1";

#[test]
fn a_row_leads_back_to_its_event() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let platform = Platform::new("lineage", &[ANCESTORS], read_model);
        let topic = platform.topic(BORN);
        let platform = platform.set(&["kafka", "topics", BORN], topic.as_str()).set(&["batch", "events"], 7);
        topics::create(platform.brokers(), &[Topic::new(&topic, 3)]).unwrap();
        // Person 5 is corrected twice: the later event of the same key, and so of the same partition.
        let born = |person: usize, parent: usize| {
            let payload = format!(r#"{{"id": "p{person}", "parent": "p{parent}"}}"#);
            Record::new(&topic, format!("p{person}"), payload)
        };
        let records: Vec<Record> =
            (1..40).map(|person| born(person, person - 1)).chain([born(5, 1), born(5, 2)]).collect();
        let positions = Publisher::new(platform.brokers()).publish(&records).unwrap();

        let host = platform.start_host("host");
        let digest = platform.until_through("ancestors").digest;
        let mut expected: Vec<Vec<Option<String>>> = (1..40)
            .map(|person| {
                let last = if person == 5 { records.len() - 1 } else { person - 1 };
                let position = positions[last];
                let (partition, offset) = (position.partition.to_string(), position.offset.to_string());
                [format!("p{person}"), topic.clone(), partition, offset, digest.clone()].map(Some).to_vec()
            })
            .collect();
        expected.sort();
        let columns = ["id", "_topic", "_partition", "_offset", "_digest"];
        assert_eq!(rows(platform.read_model(), "ancestors_g1", "person", &columns), expected);
        host.sigterm();
    }
}
