//! Texts that librdkafka hands over as C strings.

use std::ffi::CStr;

use rdkafka::bindings as native;

/// Copies a text that librdkafka allocated for the caller, and frees it. `None` if there is none, or it is
/// empty.
///
/// The client is open; `made` is null, or a C string that librdkafka allocated and that was not freed yet.
pub(super) unsafe fn taken(client: *mut native::rd_kafka_t, made: *mut std::ffi::c_char) -> Option<String> {
    if made.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    let copied = unsafe { text(made) };
    // SAFETY: as the caller promises; the text was copied.
    unsafe { native::rd_kafka_mem_free(client, made.cast()) };
    Some(copied).filter(|text| !text.is_empty())
}

/// # Safety
/// `text` is null or a C string.
pub(super) unsafe fn text(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
