//! Recognises the format of a value that is not JSON, by its first bytes, and says what to do about it.

/// Names the format of a value, with a remedy. `None` if the value may be JSON with a syntax error.
pub(super) fn recognise(value: &[u8]) -> Option<String> {
    const DECODE: &str =
        "take the event as an Event<Unread> and decode its bytes, or let the producer send JSON";
    const UNZIP: &str = "set the producer's compression.type, which consumers decompress automatically, instead of compressing values";
    let named = |what: &str, remedy: &str| Some(format!("the value is {what}, not JSON: {remedy}"));
    match value {
        [] => named(
            "empty (0 bytes, which is not a tombstone)",
            "let the producer send JSON, or null for a tombstone",
        ),
        [0x1f, 0x8b, ..] => named("compressed with gzip", UNZIP),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => named("compressed with zstd", UNZIP),
        [0x04, 0x22, 0x4d, 0x18, ..] => named("compressed with lz4", UNZIP),
        [0xff, 0x06, 0, 0, b's', b'N', b'a', b'P', b'p', b'Y', ..]
        | [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, ..] => named("compressed with snappy", UNZIP),
        [b'O', b'b', b'j', 1, ..] => named("an Avro object container", DECODE),
        [0xc3, 0x01, ..] if value.len() >= 10 && std::str::from_utf8(value).is_err() => {
            named("Avro in its single-object encoding", DECODE)
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => named("UTF-16", "let the producer send UTF-8"),
        [0, a, 0, b, ..] | [a, 0, b, 0, ..] if is_text(*a) && is_text(*b) => {
            named("UTF-16 without a byte order mark", "let the producer send UTF-8")
        }
        [0, a, b, c, d, payload @ ..] => {
            let id = u32::from_be_bytes([*a, *b, *c, *d]);
            let what = format!("in a schema registry's framing (byte 0, then schema id {id})");
            match payload.first() {
                Some(b'{' | b'[') => named(
                    &what,
                    "take the event as an Event<Unread> and read the JSON behind its first 5 bytes, or let the producer use a JSON serializer without the registry",
                ),
                _ => named(&format!("{what}, which Avro and Protobuf serializers write"), DECODE),
            }
        }
        [3, 0 | 5, ..] if value.len() > 18 => {
            named("in the framing of AWS Glue's schema registry (byte 3, then the schema's id)", DECODE)
        }
        _ => binary(value),
    }
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')
}

fn binary(value: &[u8]) -> Option<String> {
    let controls = |byte: &&u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    if let Some(byte) = value.iter().take(4).find(controls) {
        let first: Vec<_> = value.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        return Some(format!(
            "the value is not JSON: its first bytes ({}) include {byte:#04x}, as in Protobuf and other binary formats; take the event as an Event<Unread> and decode its bytes, or let the producer send JSON",
            first.join(" ")
        ));
    }
    let error = std::str::from_utf8(value).err()?;
    let at = error.valid_up_to();
    Some(format!(
        "the value is not UTF-8, as JSON must be: byte {:#04x} at offset {at}; let the producer send UTF-8",
        value[at]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn formats_are_named() {
        for (value, what) in [
            (b"".to_vec(), "empty (0 bytes"),
            (b"\x1f\x8b\x08\0\0".to_vec(), "gzip"),
            (b"\x28\xb5\x2f\xfd\x04".to_vec(), "zstd"),
            (b"\x04\x22\x4d\x18\x60".to_vec(), "lz4"),
            (b"\xff\x06\0\0sNaPpY\x01".to_vec(), "snappy"),
            (b"\x82SNAPPY\0\0\0\0\x01".to_vec(), "snappy"),
            (b"Obj\x01\x04\x14avro.codec".to_vec(), "Avro object container"),
            (b"\xc3\x01\x01\x02\x03\x04\x05\x06\x07\x88\x02".to_vec(), "single-object"),
            (b"\0\0\0\x01\xc8\x0echeap\x02".to_vec(), "schema id 456), which Avro and Protobuf"),
            (
                b"\0\0\0\0\x07{\"a\": 1}".to_vec(),
                "schema id 7), not JSON: take the event as an Event<Unread> and read the JSON behind",
            ),
            ([&[3, 0][..], &[0xab; 16], &[2, 4]].concat(), "AWS Glue"),
            ([&[0xff, 0xfe][..], &utf16("{}", u16::to_le_bytes)].concat(), "UTF-16,"),
            ([&[0xfe, 0xff][..], &utf16("{}", u16::to_be_bytes)].concat(), "UTF-16,"),
            (utf16("{\"a\": 1}", u16::to_le_bytes), "UTF-16 without"),
            (utf16("{\"a\": 1}", u16::to_be_bytes), "UTF-16 without"),
            (b"\x0a\x05hello\x10\x96\x01".to_vec(), "Protobuf"),
            (b"{\"name\": \"\xff\xfe\"}".to_vec(), "byte 0xff at offset 10"),
        ] {
            let found = recognise(&value).unwrap_or_default();
            assert!(found.contains(what), "{what}: {found}");
        }
        for json in ["{", "{'a': 1}", "hello", "<xml/>", " \n", "{\"a\": \"\u{e9}\""] {
            assert_eq!(recognise(json.as_bytes()), None, "{json}");
        }
    }
}
