//! A host says that events failed: the first of each code at once, with its place and what to do, and the others
//! as a sum.

use projector_workload::{ORDER_CONFIRMED, Record};

use crate::harness::{Line, Platform, ReadModel, SALES_BY_COUNTRY, dead_letters};

#[test]
fn the_first_dead_letter_of_a_code_is_logged_and_the_others_are_summed_up() {
    let platform = Platform::new("dead-letter-log", &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["failures", "policy"], "dead-letter");
    platform.create_topics(1);
    let topic = platform.topic(ORDER_CONFIRMED);
    platform.publish(&["{", "not JSON", "[", "}", "\""].map(|payload| Record::new(&*topic, "k", payload)));
    let host = platform.start_host("host");
    platform.until_through(SALES_BY_COUNTRY);
    let first = host.log().until_said("an event failed and became a dead letter");
    let letters = dead_letters(platform.read_model(), SALES_BY_COUNTRY);
    assert_eq!(letters.len(), 5, "{letters:?}");
    assert_eq!(first.field("level"), "WARN");
    assert_eq!(first.field("projection"), SALES_BY_COUNTRY);
    assert_eq!(
        (first.field("topic"), first.number("partition"), first.number("offset")),
        (&*topic, Some(0), Some(0))
    );
    assert!(letters[0].verdict().contains(first.field("code")), "{letters:?}: {}", first.text);
    let command = format!("projector dlq show {SALES_BY_COUNTRY}");
    assert!(first.field("advice").contains(&command), "{}", first.text);

    let lines = host.sigterm().lines();
    let of =
        |words: &str| -> Vec<&Line> { lines.iter().filter(|line| line.message().contains(words)).collect() };
    assert_eq!(of("an event failed and became a dead letter").len(), 1, "one line for each code");
    let [sum] = of("more dead letters")[..] else { panic!("{:?}", of("more dead letters").len()) };
    assert_eq!((sum.number("events"), sum.number("offset")), (Some(4), Some(4)), "{}", sum.text);
    assert_eq!(sum.field("code"), first.field("code"));
}
