//! Reads a record's headers as bytes.
//!
//! Header names are UTF-8 by convention, but no broker checks this, and rdkafka's `Headers` panics on other
//! bytes. So this module reads headers from librdkafka directly.

use std::ffi::CStr;

use rdkafka::bindings as native;
use rdkafka::message::BorrowedMessage;

use projector_core::event::Header;

pub(super) fn headers(message: &BorrowedMessage<'_>) -> Vec<Header> {
    let mut headers = std::ptr::null_mut();
    // SAFETY: the message is alive, and keeps what it hands out.
    let error = unsafe { native::rd_kafka_message_headers(message.ptr(), &mut headers) };
    // Not an error: most records have none.
    if error != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
        return Vec::new();
    }
    // SAFETY: they belong to the message, which is alive.
    let count = unsafe { native::rd_kafka_header_cnt(headers) };
    // SAFETY: as above.
    (0..count).map_while(|at| unsafe { header(headers, at) }).collect()
}

/// # Safety
/// `headers` belong to a message that is alive.
unsafe fn header(headers: *const native::rd_kafka_headers_t, at: usize) -> Option<Header> {
    let (mut name, mut value, mut bytes) = (std::ptr::null(), std::ptr::null(), 0);
    // SAFETY: as the caller promises; librdkafka ends each name with a NUL, and says how long the value is.
    // All of it is copied.
    unsafe {
        let error = native::rd_kafka_header_get_all(headers, at, &mut name, &mut value, &mut bytes);
        if error != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return None;
        }
        let name = CStr::from_ptr(name).to_bytes().to_vec();
        let value =
            (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), bytes).to_vec());
        Some(Header { name, value })
    }
}
