//! Records that no well-behaved producer sends: header names are bytes here.

use std::ffi::{CString, c_char, c_void};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::bindings as native;
use rdkafka::producer::{BaseProducer, Producer};

/// Publishes one record with one header, whose name may be any bytes but NUL. Returns when the broker has
/// acknowledged it.
pub(crate) fn publish_with_header(
    brokers: &str,
    topic: &str,
    partition: i32,
    (key, value): (&[u8], &[u8]),
    (name, content): (&[u8], &[u8]),
) {
    use native::rd_kafka_vtype_t as vtype;
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("acks", "all").create().unwrap();
    let topic = CString::new(topic).unwrap();
    // SAFETY: all that is pointed to lives until the call returns; the message is copied, and the headers
    // belong to the client once the call has succeeded.
    unsafe {
        let headers = native::rd_kafka_headers_new(1);
        let added = native::rd_kafka_header_add(
            headers,
            name.as_ptr().cast::<c_char>(),
            name.len() as isize,
            content.as_ptr().cast::<c_void>(),
            content.len() as isize,
        );
        assert_eq!(added, native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
        let sent = native::rd_kafka_producev(
            producer.client().native_ptr(),
            vtype::RD_KAFKA_VTYPE_TOPIC,
            topic.as_ptr(),
            vtype::RD_KAFKA_VTYPE_PARTITION,
            partition,
            vtype::RD_KAFKA_VTYPE_MSGFLAGS,
            native::RD_KAFKA_MSG_F_COPY,
            vtype::RD_KAFKA_VTYPE_KEY,
            key.as_ptr(),
            key.len(),
            vtype::RD_KAFKA_VTYPE_VALUE,
            value.as_ptr(),
            value.len(),
            vtype::RD_KAFKA_VTYPE_HEADERS,
            headers,
            vtype::RD_KAFKA_VTYPE_END,
        );
        assert_eq!(sent, native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}
