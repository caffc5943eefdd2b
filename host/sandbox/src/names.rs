//! Makes the names of functions in a component readable and short.
//!
//! Wasmtime shows these names in the backtrace of a trap. It copies each name for each frame and demangles
//! it in full, and with C++'s mangling, some hundred bytes can stand for more text than any memory holds.
//! So the compile worker rewrites the `name` sections before it compiles. The rewritten names have at most
//! [`MOST_BYTES`], are readable already, and begin with a space, which no mangled name does. Other custom
//! sections stay.

use std::fmt::Write;

use super::imports::Reader;

/// Most bytes of one name.
const MOST_BYTES: usize = 256;
/// Most levels of components within components. The tools that build plugins need two.
const MOST_LEVELS: usize = 16;

const MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

/// The component with short names. `None` if its sections cannot be read.
pub(super) fn shortened(component: &[u8]) -> Option<Vec<u8>> {
    rewritten(component, MOST_LEVELS)
}

fn rewritten(bytes: &[u8], levels: usize) -> Option<Vec<u8>> {
    let (header, sections) = bytes.split_at_checked(8)?;
    let is_module = header[4..] == MODULE;
    if levels == 0 || !(is_module || header[4..] == COMPONENT) {
        return None;
    }
    let mut all = Vec::with_capacity(bytes.len());
    all.extend(header);
    let mut reader = Reader { bytes: sections };
    while !reader.bytes.is_empty() {
        let id = reader.byte()?;
        let section = reader.sized()?;
        match id {
            0 if is_module => match (Reader { bytes: section }).names() {
                Some(names) => put(&mut all, id, &names),
                None => put(&mut all, id, section),
            },
            // A module, or a component within this one.
            1 | 4 if !is_module => put(&mut all, id, &rewritten(section, levels - 1)?),
            _ => put(&mut all, id, section),
        }
    }
    Some(all)
}

impl Reader<'_> {
    /// If this is a section `name`, returns it with short names. Parts that cannot be read are left out, as
    /// wasmtime does.
    fn names(mut self) -> Option<Vec<u8>> {
        if self.sized()? != b"name" {
            return None;
        }
        let mut all = b"\x04name".to_vec();
        while let Some((id, part)) = self.byte().and_then(|id| Some((id, self.sized()?))) {
            let mut part = Reader { bytes: part };
            match id {
                0 => {
                    let mut name = Vec::new();
                    if let Some(given) = part.sized() {
                        put_sized(&mut name, cut(&String::from_utf8_lossy(given)).as_bytes());
                        put(&mut all, id, &name);
                    }
                }
                1 => put(&mut all, id, &part.functions_names()),
                _ => {}
            }
        }
        Some(all)
    }

    fn functions_names(&mut self) -> Vec<u8> {
        let (mut count, mut entries) = (0, Vec::new());
        let most = self.number().unwrap_or_default();
        while count < most
            && let Some(index) = self.number().filter(|index| *index <= u32::MAX.into())
            && let Some(name) = self.sized()
        {
            put_number(&mut entries, index);
            put_sized(&mut entries, format!(" {}", readable(&String::from_utf8_lossy(name))).as_bytes());
            count += 1;
        }
        let mut all = Vec::new();
        put_number(&mut all, count);
        all.append(&mut entries);
        all
    }
}

fn put(all: &mut Vec<u8>, id: u8, section: &[u8]) {
    all.push(id);
    put_sized(all, section);
}

fn put_sized(all: &mut Vec<u8>, bytes: &[u8]) {
    put_number(all, bytes.len() as u64);
    all.extend(bytes);
}

/// LEB128.
fn put_number(all: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        all.push(number as u8 | 0x80);
        number >>= 7;
    }
    all.push(number as u8);
}

fn cut(name: &str) -> String {
    match name.char_indices().find(|(at, char)| at + char.len_utf8() > MOST_BYTES) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    }
}

/// Demangles Rust's names. Other names stay as they are.
fn readable(name: &str) -> String {
    // Long names are cut before, whatever their form.
    let mangled = cut(name);
    cut(&legacy(&mangled).or_else(|| plain_path(&mangled)).unwrap_or(mangled))
}

/// Legacy mangling: `_ZN`, lengths and parts of the path, a hash, `E`. A name that was cut is read as far
/// as it goes.
fn legacy(name: &str) -> Option<String> {
    let mut rest = name.strip_prefix("_ZN")?;
    let mut readable = String::new();
    while let Some((part, after)) = counted(rest) {
        let is_hash = part.len() == 17 && part.starts_with('h') && after.starts_with('E');
        if !is_hash {
            if !readable.is_empty() {
                readable.push_str("::");
            }
            unescape(part, &mut readable);
        }
        rest = after;
    }
    match (rest.starts_with('E'), name.ends_with('…')) {
        _ if readable.is_empty() => None,
        (true, _) => Some(readable),
        (false, true) => Some(readable + "::…"),
        (false, false) => None,
    }
}

/// A length, and this many bytes.
fn counted(text: &str) -> Option<(&str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text[digits..].split_at_checked(text[..digits].parse().ok()?)
}

fn unescape(part: &str, readable: &mut String) {
    let mut rest = part.strip_prefix('_').filter(|rest| rest.starts_with('$')).unwrap_or(part);
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("..") {
            readable.push_str("::");
            rest = after;
        } else if let Some((escape, after)) = rest.strip_prefix('$').and_then(|rest| rest.split_once('$'))
            && let Some(escaped) = escaped(escape)
        {
            readable.push(escaped);
            rest = after;
        } else {
            readable.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
}

fn escaped(escape: &str) -> Option<char> {
    let code = |digits: &str| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
    Some(match escape {
        "SP" => '@',
        "BP" => '*',
        "RF" => '&',
        "LT" => '<',
        "GT" => '>',
        "LP" => '(',
        "RP" => ')',
        "C" => ',',
        escape => code(escape.strip_prefix('u')?).filter(|char| !char.is_control())?,
    })
}

/// New mangling: only paths without generics, as most functions of the standard library have.
fn plain_path(name: &str) -> Option<String> {
    let mut rest = name.strip_prefix("_R")?;
    let mut namespaces = Vec::new();
    while let Some(after) = rest.strip_prefix('N') {
        namespaces.push(after.chars().next()?);
        rest = after.get(1..)?;
    }
    rest = rest.strip_prefix('C')?;
    let mut readable = String::new();
    // The crate, and then from the innermost to the outermost.
    for namespace in std::iter::once('t').chain(namespaces.into_iter().rev()) {
        if let Some(after) = rest.strip_prefix('s') {
            rest = after.split_once('_')?.1;
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let length: usize = rest[..digits].parse().ok()?;
        let text = &rest[digits..];
        let (part, after) = text.strip_prefix('_').unwrap_or(text).split_at_checked(length)?;
        let separator = if readable.is_empty() { "" } else { "::" };
        let _ = match namespace {
            'C' => write!(readable, "{separator}{{closure}}"),
            _ => write!(readable, "{separator}{part}"),
        };
        rest = after;
    }
    (rest.is_empty() || rest.starts_with(['.', 'C'])).then_some(readable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rusts_names_are_readable() {
        for (mangled, wanted) in [
            (
                "_ZN35_$LT$l..a..S$u20$as$u20$l..a..P$GT$7project17h24b05f34c4a4c3e0E",
                "<l::a::S as l::a::P>::project",
            ),
            ("_ZN4core3fmt9Arguments8from_str17h22984c20674147b9E", "core::fmt::Arguments::from_str"),
            ("_RNvNtNtCsjrHSEGnQ3l9_3std2io5stdio6__print", "std::io::stdio::_print"),
            ("_RNCNvCs1_3abc1f0", "abc::f::{closure}"),
            ("project", "project"),
            ("", ""),
            // C++, generics, and what only begins like them.
            ("_Z1f1a1bIS_S_E", "_Z1f1a1bIS_S_E"),
            ("_RINvC1a1bE", "_RINvC1a1bE"),
            ("_ZN3fooE", "foo"),
            ("_ZN4foo", "_ZN4foo"),
            ("_ZN99999999999999999999999fooE", "_ZN99999999999999999999999fooE"),
            ("_RNvC", "_RNvC"),
            ("_ZN5a$u0$E", "a$u0$"),
        ] {
            assert_eq!(readable(mangled), wanted, "{mangled}");
        }
        let long = readable(&format!("_ZN3foo1000{}E", "é".repeat(500)));
        assert!(long.len() <= MOST_BYTES + 3 && long.ends_with('…'), "{long}");
        assert_eq!(readable(&format!("_ZN3foo3bar{}E", "3bar".repeat(100))).split("::").next(), Some("foo"));
    }

    fn module(names: &[u8]) -> Vec<u8> {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        put(&mut module, 0, names);
        module
    }

    fn component(module: &[u8]) -> Vec<u8> {
        let mut inner = b"\0asm\x0d\0\x01\0".to_vec();
        put(&mut inner, 1, module);
        let mut outer = b"\0asm\x0d\0\x01\0".to_vec();
        put(&mut outer, 4, &inner);
        outer
    }

    #[test]
    fn names_are_short_in_every_module() {
        let functions = |name: &[u8]| {
            let mut entries = vec![1, 7];
            put_sized(&mut entries, name);
            let mut names = b"\x04name".to_vec();
            put(&mut names, 1, &entries);
            names
        };
        let given = component(&module(&functions(&[b'x'; 1_000_000])));
        let cut = format!(" {}…", "x".repeat(MOST_BYTES));
        assert_eq!(shortened(&given), Some(component(&module(&functions(cut.as_bytes())))));
        let other = component(&module(b"\x05other1234"));
        assert_eq!(shortened(&other), Some(other));
    }

    #[test]
    fn a_component_that_is_cut_anywhere_is_an_error() {
        let whole = component(&module(b"\x04name\x01\x05\x01\x00\x02ab\x00\x02\x01c"));
        assert!(shortened(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(shortened(&whole[..end]).is_some(), end == 8, "{end}");
        }
        // Names that end too early, or begin with an invalid index.
        for names in [&b"\x04name\x01\x09\x02\x00\x02ab\x00\x02"[..], b"\x04name\x01\xff", b"\x04name"] {
            assert!(shortened(&module(names)).is_some());
        }
    }
}
