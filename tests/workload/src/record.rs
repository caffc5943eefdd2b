/// What is handed to a producer. The generator fills everything in; a test may leave out or spoil
/// what it likes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    /// Chosen by the producer from the key when absent.
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    /// Absent: a tombstone.
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since the epoch; the time of sending when absent.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// A record without headers and with the producer's own choice of partition and time.
    pub fn new(topic: impl Into<String>, key: impl Into<Vec<u8>>, payload: impl Into<Vec<u8>>) -> Record {
        Record {
            topic: topic.into(),
            partition: None,
            key: Some(key.into()),
            payload: Some(payload.into()),
            headers: Vec::new(),
            timestamp_ms: None,
        }
    }
}
