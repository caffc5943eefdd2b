//! Who asks for a change, as the history records it.

/// Who asks, and why.
#[derive(Debug, Clone, Default)]
pub struct Requester {
    pub by: String,
    pub reason: Option<String>,
}

impl Requester {
    /// By the host itself.
    pub fn host(reason: Option<String>) -> Self {
        Self::new("the host".into(), reason)
    }

    /// What cannot be stored is left out: no database holds a NUL in a text.
    pub fn new(by: String, reason: Option<String>) -> Self {
        let text = |text: String| text.replace('\0', "");
        Self { by: text(by), reason: reason.map(text) }
    }
}
