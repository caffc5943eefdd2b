//! Who makes a request, as the history records it.

/// Who makes a request, and why.
#[derive(Debug, Clone, Default)]
pub struct Requester {
    pub by: String,
    pub reason: Option<String>,
}

impl Requester {
    /// The host itself.
    pub fn host(reason: Option<String>) -> Self {
        Self::new("the host".into(), reason)
    }

    /// NUL characters are left out: Postgres cannot store them in a text.
    pub fn new(by: String, reason: Option<String>) -> Self {
        let text = |text: String| text.replace('\0', "");
        Self { by: text(by), reason: reason.map(text) }
    }
}
