//! History as a file has it, line by line: each is an event of a topic, in the order in which they are to
//! be projected. Pure, but for the reading.

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

/// What stands for the topic of events from a file: they are of its partition 0, and their offsets are the
/// numbers of their lines, from 0.
pub const TOPIC: &str = FILE_TOPIC;

/// The partition that a file is.
pub fn partition() -> Partition {
    Partition::new(TOPIC, 0)
}

/// The topics of a plugin, as a file may name them: by their names in the log, or by a logical name that
/// stands for one topic.
#[derive(Debug, Clone)]
pub struct Topics {
    mapping: TopicMapping,
    file: Partition,
}

impl Topics {
    pub fn new(mapping: TopicMapping) -> Self {
        Self { mapping, file: partition() }
    }

    /// What a name in the file is called in the log.
    fn physical<'n>(&'n self, named: &'n str) -> Result<&'n str, String> {
        let declared = self.mapping.declared();
        // Where one topic's name is another one's in the log, the log has the last word.
        if self.mapping.reads(named) {
            return Ok(named);
        }
        match declared.iter().find(|(logical, _)| logical == named).map(|(_, topics)| topics) {
            Some(PhysicalTopics::Named(names)) if names.len() == 1 => Ok(&names[0]),
            Some(several) => Err(format!(
                "the topic {named:?} may be any of several in the log ({several}): name the one that the event was published to"
            )),
            None => {
                let known: Vec<String> = declared.iter().map(|(_, topics)| topics.to_string()).collect();
                let known = known.join(", ");
                Err(format!("the topic {named:?} is none that the plugin reads, which are {known}"))
            }
        }
    }
}

/// The SHA-256 of a file as it lies there. `told` how many bytes were read.
pub fn digest(path: &Path, mut told: impl FnMut(u64)) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut digest, mut read) = (Sha256::new(), 0);
    let mut chunk = vec![0; 1024 * 1024];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex::encode(digest.finalize())),
            bytes => {
                digest.update(&chunk[..bytes]);
                read += bytes as u64;
                told(read);
            }
        }
    }
}

/// The lines of a file, unpacked as its name's ending says.
pub struct Lines {
    source: Box<dyn BufRead + Send>,
    packed: Arc<AtomicU64>,
    most: usize,
    next: i64,
}

/// A line's number, and what stands there: in the buffer that was given, or too much for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    pub number: i64,
    pub too_long: bool,
}

impl Lines {
    /// `most`: bytes that a line may have.
    pub fn open(path: &Path, most: usize) -> io::Result<Self> {
        let packed = Arc::new(AtomicU64::new(0));
        let file = BufReader::new(Counted { file: File::open(path)?, read: packed.clone() });
        let source: Box<dyn BufRead + Send> = match path.extension().and_then(OsStr::to_str) {
            Some("gz") => Box::new(BufReader::new(MultiGzDecoder::new(file))),
            Some("zst") => Box::new(BufReader::new(zstd::Decoder::with_buffer(file)?)),
            _ => Box::new(file),
        };
        Ok(Self { source, packed, most, next: 0 })
    }

    /// The number of the next line.
    pub fn next_number(&self) -> i64 {
        self.next
    }

    /// Bytes of the file that were read.
    pub fn packed_bytes(&self) -> u64 {
        self.packed.load(Ordering::Relaxed)
    }

    /// The next line; `None`: there is none.
    pub fn read(&mut self, line: &mut Vec<u8>) -> io::Result<Option<Line>> {
        line.clear();
        let bytes = (&mut self.source).take(self.most as u64 + 1).read_until(b'\n', line)?;
        if bytes == 0 {
            return Ok(None);
        }
        let too_long = bytes > self.most && line.last() != Some(&b'\n');
        if too_long {
            line.clear();
            self.source.skip_until(b'\n')?;
        }
        self.next += 1;
        Ok(Some(Line { number: self.next - 1, too_long }))
    }

    /// Goes on to the line of this number, or to the end.
    pub fn skip_to(&mut self, number: i64) -> io::Result<()> {
        while self.next < number && self.source.skip_until(b'\n')? > 0 {
            self.next += 1;
        }
        Ok(())
    }
}

struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Whether nothing stands in a line.
pub fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// What is known of a file before it is fed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    pub lines: i64,
    /// By partitions of the log.
    pub offsets: BTreeMap<Partition, OffsetSet>,
}

impl Scanned {
    /// Reads all lines. What is wrong with one is told when it is fed. `skipped`: lines that are not fed, by their
    /// numbers; their offsets count as being there. `told` now and then.
    pub fn of(
        lines: &mut Lines,
        topics: &Topics,
        skipped: &BTreeSet<i64>,
        mut told: impl FnMut(&Lines),
    ) -> io::Result<Self> {
        /// All else of it is read later.
        #[derive(Deserialize)]
        struct Where {
            topic: String,
            partition: i32,
            offset: i64,
        }
        let (mut scanned, mut line) = (Self::default(), Vec::new());
        let mut passed_over: Vec<(Partition, i64)> = Vec::new();
        while let Some(Line { number, .. }) = lines.read(&mut line)? {
            scanned.lines += 1;
            told(lines);
            let Ok(Where { topic, partition, offset }) = serde_json::from_slice(&line) else { continue };
            let Ok(physical) = topics.physical(&topic) else { continue };
            if !is_possible(partition, offset) {
                continue;
            }
            let partition = Partition::new(physical, partition);
            if skipped.contains(&number) {
                passed_over.push((partition, offset));
                continue;
            }
            scanned.offsets.entry(partition).or_default().insert(offset, number + 1);
        }
        for (partition, offset) in passed_over {
            scanned.offsets.entry(partition).or_default().add(offset);
        }
        Ok(scanned)
    }

    /// By partitions of the log: the offset after the last one that the file has.
    pub fn ends(&self) -> BTreeMap<Partition, i64> {
        self.offsets.iter().map(|(partition, offsets)| (partition.clone(), offsets.end())).collect()
    }
}

/// The event that a line is. An error: what is wrong with it.
pub fn event(line: &[u8], number: i64, topics: &Topics, value_bytes: usize) -> Result<Event, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Told<'l> {
        topic: String,
        partition: Option<i32>,
        offset: Option<i64>,
        timestamp: Option<i64>,
        #[serde(default)]
        key: Json,
        #[serde(default)]
        headers: Json,
        /// Not to be left out: it would be a tombstone.
        #[serde(borrow)]
        value: &'l RawValue,
    }
    let Told { topic, partition, offset, timestamp, key, headers, value } =
        serde_json::from_slice(line).map_err(|error| error.to_string())?;
    match (partition, offset) {
        (None, None) => {}
        (Some(partition), Some(offset)) if is_possible(partition, offset) => {}
        (Some(_), Some(_)) => return Err("`partition` or `offset` is out of range".to_owned()),
        _ => return Err("`partition` and `offset` go together: give both, or none".to_owned()),
    }
    let physical = topics.physical(&topic)?;
    let mut places = topics.mapping.places(physical).into_iter();
    let place = places.next().ok_or_else(|| format!("the topic {topic:?} is none that the plugin reads"))?;
    let key = bytes(&key).map_err(|wrong| format!("`key` {wrong}"))?;
    let value = payload(value).map_err(|wrong| format!("`value` {wrong}"))?;
    if let Some(value) = value.as_ref().filter(|value| value.len() > value_bytes) {
        return Err(format!("its value has {} bytes, more than `kafka.value-bytes`", value.len()));
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

/// Text, `{"hex": "…"}`, or nothing.
fn bytes(json: &Json) -> Result<Option<Vec<u8>>, String> {
    match json {
        Json::Null => Ok(None),
        Json::String(text) => Ok(Some(text.clone().into_bytes())),
        Json::Object(object) => match (object.len(), object.get("hex")) {
            (1, Some(Json::String(digits))) => decoded(digits).map(Some),
            _ => Err(r#"is an object, but not {"hex": "…"}"#.to_owned()),
        },
        _ => Err(r#"is neither a text, nor {"hex": "…"}, nor null"#.to_owned()),
    }
}

fn decoded(digits: &str) -> Result<Vec<u8>, String> {
    hex::decode(digits).map_err(|error| format!("is no hexadecimal: {error}"))
}

/// The JSON as it stands there; of a string, its text; of `{"hex": "…"}` alone, its bytes.
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

fn is_possible(partition: i32, offset: i64) -> bool {
    partition >= 0 && (0..i64::MAX).contains(&offset)
}

#[cfg(test)]
mod tests;
