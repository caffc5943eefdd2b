//! The file of a backfill: JSON lines. Each line is an event of a topic, and events are projected in the order of the
//! lines.
//!
//! This module opens, decompresses, scans and parses the file. It knows neither Kafka nor a database.

mod offsets;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use projector_core::event::{Event, Header, Partition, Position};
use projector_core::topics::{FILE_TOPIC, PhysicalTopics, TopicMapping};
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

pub use offsets::OffsetSet;

/// The topic under which checkpoints record a file. The file is this topic's partition 0, and the offset of an event
/// is the number of its line, from 0.
pub const TOPIC: &str = FILE_TOPIC;

/// The partition under which checkpoints record a file.
pub fn partition() -> Partition {
    Partition::new(TOPIC, 0)
}

/// The topics of a plugin, by the names that a file may use: a physical name, or a logical name that is mapped to one
/// physical topic.
#[derive(Debug, Clone)]
pub struct Topics {
    mapping: TopicMapping,
    file: Partition,
}

impl Topics {
    pub fn new(mapping: TopicMapping) -> Self {
        Self { mapping, file: partition() }
    }

    /// The physical name of a topic that the file names.
    fn physical<'n>(&'n self, named: &'n str) -> Result<&'n str, String> {
        let declared = self.mapping.declared();
        // A name may be a physical name and also the logical name of another topic. Then it is the physical name.
        if self.mapping.reads(named) {
            return Ok(named);
        }
        match declared.iter().find(|(logical, _)| logical == named).map(|(_, topics)| topics) {
            Some(PhysicalTopics::Named(names)) if names.len() == 1 => Ok(&names[0]),
            Some(several) => Err(format!(
                "the topic {named:?} stands for several topics in Kafka ({several}): write the name of the topic that the event was published to"
            )),
            None => {
                let known: Vec<String> = declared.iter().map(|(_, topics)| topics.to_string()).collect();
                let known = known.join(", ");
                Err(format!("the plugin does not read the topic {named:?}: it reads {known}"))
            }
        }
    }
}

/// The SHA-256 of a file's bytes, in lowercase hex. A compressed file is not decompressed. `progress` gets the number
/// of bytes that were read so far.
pub fn digest(path: &Path, mut progress: impl FnMut(u64)) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut digest, mut read) = (Sha256::new(), 0);
    let mut chunk = vec![0; 1024 * 1024];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex::encode(digest.finalize())),
            bytes => {
                digest.update(&chunk[..bytes]);
                read += bytes as u64;
                progress(read);
            }
        }
    }
}

/// The lines of a file. A file whose name ends in `.gz` or `.zst` is decompressed.
pub struct Lines {
    source: Box<dyn BufRead + Send>,
    bytes_read: Arc<AtomicU64>,
    most_line_bytes: usize,
    next: i64,
}

/// A line that was read. Its text is in the buffer that was given to [`Lines::read`]; the buffer is empty if the line
/// is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// From 0.
    pub number: i64,
    pub too_long: bool,
}

impl Lines {
    pub fn open(path: &Path, most_line_bytes: usize) -> io::Result<Self> {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let file = BufReader::new(CountedFile { file: File::open(path)?, read: bytes_read.clone() });
        let source: Box<dyn BufRead + Send> = match path.extension().and_then(OsStr::to_str) {
            Some("gz") => Box::new(BufReader::new(MultiGzDecoder::new(file))),
            Some("zst") => Box::new(BufReader::new(zstd::Decoder::with_buffer(file)?)),
            _ => Box::new(file),
        };
        Ok(Self { source, bytes_read, most_line_bytes, next: 0 })
    }

    /// The number of the next line.
    pub fn next_number(&self) -> i64 {
        self.next
    }

    /// How many bytes of the file were read. Of a compressed file: compressed bytes.
    pub fn file_bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Reads the next line into `line`. `None`: the file has ended.
    pub fn read(&mut self, line: &mut Vec<u8>) -> io::Result<Option<Line>> {
        line.clear();
        let bytes = (&mut self.source).take(self.most_line_bytes as u64 + 1).read_until(b'\n', line)?;
        if bytes == 0 {
            return Ok(None);
        }
        let too_long = bytes > self.most_line_bytes && line.last() != Some(&b'\n');
        if too_long {
            line.clear();
            self.source.skip_until(b'\n')?;
        }
        self.next += 1;
        Ok(Some(Line { number: self.next - 1, too_long }))
    }

    /// Skips lines until the next one has this number, or the file has ended.
    pub fn skip_to(&mut self, number: i64) -> io::Result<()> {
        while self.next < number && self.source.skip_until(b'\n')? > 0 {
            self.next += 1;
        }
        Ok(())
    }
}

/// Counts the bytes that are read from a file.
struct CountedFile {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for CountedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Whether a line is empty, or only whitespace.
pub fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// What a scan of the whole file finds, before its first event is projected.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    pub lines: i64,
    /// By partition in Kafka: the offsets that lines give.
    pub offsets: BTreeMap<Partition, OffsetSet>,
}

impl Scanned {
    /// Reads all lines. A line that is not a valid event is passed over here, and reported when it is projected.
    /// `skipped`: numbers of lines that are not projected. The file has their offsets all the same, so that these do
    /// not count as missing. `progress` is called after each line.
    pub fn of(
        lines: &mut Lines,
        topics: &Topics,
        skipped: &BTreeSet<i64>,
        mut progress: impl FnMut(&Lines),
    ) -> io::Result<Self> {
        /// The other fields are parsed when the line is projected.
        #[derive(Deserialize)]
        struct Place {
            topic: String,
            partition: i32,
            offset: i64,
        }
        let (mut scanned, mut line) = (Self::default(), Vec::new());
        let mut of_skipped_lines: Vec<(Partition, i64)> = Vec::new();
        while let Some(Line { number, .. }) = lines.read(&mut line)? {
            scanned.lines += 1;
            progress(lines);
            let Ok(Place { topic, partition, offset }) = serde_json::from_slice(&line) else { continue };
            let Ok(physical) = topics.physical(&topic) else { continue };
            if !is_in_range(partition, offset) {
                continue;
            }
            let partition = Partition::new(physical, partition);
            if skipped.contains(&number) {
                of_skipped_lines.push((partition, offset));
                continue;
            }
            scanned.offsets.entry(partition).or_default().insert(offset, number + 1);
        }
        // Added last: a line may be skipped because its offset stands in another line as well. That is not an error.
        for (partition, offset) in of_skipped_lines {
            scanned.offsets.entry(partition).or_default().add(offset);
        }
        Ok(scanned)
    }

    /// By partition in Kafka: the offset after the last one that the file has.
    pub fn ends(&self) -> BTreeMap<Partition, i64> {
        self.offsets.iter().map(|(partition, offsets)| (partition.clone(), offsets.end())).collect()
    }
}

/// Parses a line as an event. `number` is the line's number; `value_bytes` is the largest allowed size of a value.
/// The error says what is wrong with the line.
pub fn event(line: &[u8], number: i64, topics: &Topics, value_bytes: usize) -> Result<Event, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written<'l> {
        topic: String,
        partition: Option<i32>,
        offset: Option<i64>,
        timestamp: Option<i64>,
        #[serde(default)]
        key: Json,
        #[serde(default)]
        headers: Json,
        /// Required: a line that left the value out by mistake would be a tombstone.
        #[serde(borrow)]
        value: &'l RawValue,
    }
    let Written { topic, partition, offset, timestamp, key, headers, value } =
        serde_json::from_slice(line).map_err(|error| error.to_string())?;
    match (partition, offset) {
        (None, None) => {}
        (Some(partition), Some(offset)) if is_in_range(partition, offset) => {}
        (Some(_), Some(_)) => return Err("`partition` or `offset` is out of range".to_owned()),
        _ => return Err("`partition` and `offset` go together: give both, or none".to_owned()),
    }
    let physical = topics.physical(&topic)?;
    let mut places = topics.mapping.places(physical).into_iter();
    let place = places.next().ok_or_else(|| format!("the plugin does not read the topic {topic:?}"))?;
    let key = bytes(&key).map_err(|wrong| format!("`key` {wrong}"))?;
    let value = payload(value).map_err(|wrong| format!("`value` {wrong}"))?;
    if let Some(value) = value.as_ref().filter(|value| value.len() > value_bytes) {
        return Err(format!("the value has {} bytes, more than `kafka.value-bytes`", value.len()));
    }
    Ok(Event {
        position: Position { partition: topics.file.clone(), offset: number },
        topic: place,
        timestamp_ms: timestamp,
        key,
        value,
        also: places.collect(),
        topic_name: physical.into(),
        oversize_bytes: None,
        headers: headers_of(&headers)?,
    })
}

/// Bytes, written as a string (its UTF-8 bytes), as `{"hex": "…"}`, or as null for none.
fn bytes(json: &Json) -> Result<Option<Vec<u8>>, String> {
    match json {
        Json::Null => Ok(None),
        Json::String(text) => Ok(Some(text.clone().into_bytes())),
        Json::Object(object) => match (object.len(), object.get("hex")) {
            (1, Some(Json::String(digits))) => decoded(digits).map(Some),
            _ => Err(r#"is an object, but not {"hex": "…"}"#.to_owned()),
        },
        _ => Err(r#"is neither a string, nor {"hex": "…"}, nor null"#.to_owned()),
    }
}

fn decoded(digits: &str) -> Result<Vec<u8>, String> {
    hex::decode(digits).map_err(|error| format!("is not hexadecimal: {error}"))
}

/// The payload that a `value` gives: the text of a string, the bytes of `{"hex": "…"}`, none for null. Any other JSON
/// is the payload itself, byte for byte.
fn payload(value: &RawValue) -> Result<Option<Vec<u8>>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Hex {
        hex: String,
    }
    let json = value.get();
    match json.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => match serde_json::from_str::<String>(json) {
            Ok(text) => Ok(Some(text.into_bytes())),
            Err(error) => Err(error.to_string()),
        },
        Some(b'{') => match serde_json::from_str::<Hex>(json) {
            Ok(Hex { hex }) => decoded(&hex).map(Some),
            Err(_) => Ok(Some(json.as_bytes().to_vec())),
        },
        _ => Ok(Some(json.as_bytes().to_vec())),
    }
}

fn headers_of(json: &Json) -> Result<Vec<Header>, String> {
    let header = |name: &str, value: &Json| {
        let value = bytes(value).map_err(|wrong| format!("the header {name:?} {wrong}"))?;
        Ok(Header { name: name.into(), value })
    };
    let wrong = || {
        r#"`headers` is neither an object, nor a list of {"name": "…", "value": "…"}, nor null"#.to_owned()
    };
    match json {
        Json::Null => Ok(Vec::new()),
        Json::Object(object) => object.iter().map(|(name, value)| header(name, value)).collect(),
        Json::Array(list) => {
            let named = |entry: &Json| {
                let entry = entry.as_object().filter(|entry| entry.len() <= 2).ok_or_else(wrong)?;
                let name = entry.get("name").and_then(Json::as_str).ok_or_else(wrong)?;
                match (entry.len(), entry.get("value")) {
                    (2, None) => Err(wrong()),
                    (_, value) => header(name, value.unwrap_or(&Json::Null)),
                }
            };
            list.iter().map(named).collect()
        }
        _ => Err(wrong()),
    }
}

fn is_in_range(partition: i32, offset: i64) -> bool {
    partition >= 0 && (0..i64::MAX).contains(&offset)
}

#[cfg(test)]
mod tests;
