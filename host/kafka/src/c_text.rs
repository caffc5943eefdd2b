//! Texts that librdkafka hands over as C strings.

use std::ffi::CStr;

use rdkafka::bindings as native;

/// Copies a text that librdkafka allocated for the caller, and frees it. `None` if there is no text, or it is
/// empty.
///
/// # Safety
/// The client is open. `allocated` is null, or a C string that librdkafka allocated and that was not freed
/// yet.
pub(super) unsafe fn take(
    client: *mut native::rd_kafka_t,
    allocated: *mut std::ffi::c_char,
) -> Option<String> {
    if allocated.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    let copied = unsafe { copy(allocated) };
    // SAFETY: as the caller promises; the text was copied.
    unsafe { native::rd_kafka_mem_free(client, allocated.cast()) };
    Some(copied).filter(|text| !text.is_empty())
}

/// Copies a text. Empty if there is none. Bytes that are not UTF-8 are replaced.
///
/// # Safety
/// `text` is null or a C string.
pub(super) unsafe fn copy(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
