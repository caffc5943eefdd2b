//! Components made of text: small enough to know every byte of them, so that they can do what no
//! compiler would write.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The contract, as plugins get it.
pub(crate) const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/v1");

/// Before it there is nothing, so that no answer is at the null pointer.
const MEMORY_START: usize = 16;
/// What the host hands over stands in memory, as the component model lays it out: more than 16 flat values do.
/// Of what is absent, the length may be anything there: it counts as 0.
const LOADS: &str = "
    (local.set $topic (i32.load16_u (local.get $event)))
    (local.set $topic_name (i32.load offset=4 (local.get $event)))
    (local.set $topic_name_len (i32.load offset=8 (local.get $event)))
    (local.set $partition (i32.load offset=12 (local.get $event)))
    (local.set $offset (i64.load offset=16 (local.get $event)))
    (local.set $timestamp? (i32.load8_u offset=24 (local.get $event)))
    (local.set $timestamp (i64.load offset=32 (local.get $event)))
    (local.set $key? (i32.load8_u offset=40 (local.get $event)))
    (local.set $key (i32.load offset=44 (local.get $event)))
    (local.set $key_len (select (i32.load offset=48 (local.get $event)) (i32.const 0) (i32.load8_u offset=40 (local.get $event))))
    (local.set $value? (i32.load8_u offset=52 (local.get $event)))
    (local.set $value (i32.load offset=56 (local.get $event)))
    (local.set $value_len (select (i32.load offset=60 (local.get $event)) (i32.const 0) (i32.load8_u offset=52 (local.get $event))))
    (local.set $headers (i32.load offset=64 (local.get $event)))
    (local.set $headers_len (i32.load offset=68 (local.get $event)))
    (local.set $found (i32.load offset=72 (local.get $event)))
    (local.set $found_len (i32.load offset=76 (local.get $event)))";

/// Where what the host hands over is put.
const HEAP: usize = 512 * 1024;

/// One value of a change, as the component model lays it out.
#[derive(Clone, Copy)]
pub(crate) enum Argument<'a> {
    Int64(i64),
    Float64(f64),
    Decimal(&'a str),
    Text(&'a [u8]),
    /// That is in memory, or will be when it is answered: an address, and how many bytes.
    TextAt(Address, usize),
    Json(&'a str),
    Timestamp(i64),
}

/// An address in a guest's memory.
pub(crate) type Address = usize;

/// A plugin whose memory and code are written by hand. Unless it is told otherwise it answers every
/// event with no change.
pub(crate) struct Guest {
    memory: Vec<u8>,
    declarations: String,
    describe: String,
    project: String,
}

impl Guest {
    /// `descriptor` is handed out by `describe` as it is, JSON or not.
    pub(crate) fn describing(descriptor: &str) -> Guest {
        let mut guest = Guest {
            memory: vec![0; MEMORY_START],
            declarations: String::new(),
            describe: String::new(),
            project: String::new(),
        };
        let descriptor = guest.text(descriptor.as_bytes());
        guest.describe = format!("(i32.const {})", guest.put(&words(&descriptor)));
        let nothing = guest.changes(&[]);
        guest.project(&format!("(i32.const {nothing})"))
    }

    /// Tables and functions for the code of `project`.
    pub(crate) fn declaring(mut self, declarations: &str) -> Guest {
        self.declarations = declarations.to_owned();
        self
    }

    /// The code of `project`, which leaves the answer's address. The event is in `$topic`,
    /// `$partition`, `$offset`, `$key?`, `$key`, `$key_len` and so on.
    pub(crate) fn project(mut self, code: &str) -> Guest {
        self.project = code.to_owned();
        self
    }

    /// Code that runs before that of `project`.
    pub(crate) fn before(self, code: &str) -> Guest {
        let code = format!("{code} {}", self.project);
        self.project(&code)
    }

    /// The code of `describe`, which leaves the address of a string.
    pub(crate) fn describe(mut self, code: &str) -> Guest {
        self.describe = code.to_owned();
        self
    }

    /// Answers the payload `A` with the first of these, `B` with the second, and so on.
    pub(crate) fn answering(mut self, answers: &[Address]) -> Guest {
        let table = self.put(&words(answers));
        let which = "(i32.sub (i32.load8_u (local.get $value)) (i32.const 65))";
        self.project(&format!("(i32.load (i32.add (i32.const {table}) (i32.mul {which} (i32.const 4))))"))
    }

    /// What it answers as soon as it is given rows, instead of what it was told before.
    pub(crate) fn once_found(self, answer: Address) -> Guest {
        let code = format!(
            "(if (result i32) (local.get $found_len) (then (i32.const {answer})) (else {}))",
            self.project
        );
        self.project(&code)
    }

    /// Bytes at an address of their own, which is a multiple of 8.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Address {
        self.memory.resize(self.memory.len().next_multiple_of(8), 0);
        let address = self.memory.len();
        self.memory.extend(bytes);
        assert!(self.memory.len() <= HEAP, "the guest's memory is too small for this");
        address
    }

    /// Address and length.
    pub(crate) fn text(&mut self, text: &[u8]) -> [usize; 2] {
        [self.put(text), text.len()]
    }

    /// The answer `ok(changes([(statement, arguments), …]))`.
    pub(crate) fn changes(&mut self, changes: &[(u16, &[Argument<'_>])]) -> Address {
        let calls: Vec<_> = changes
            .iter()
            .map(|(statement, arguments)| (*statement, self.arguments(arguments), arguments.len()))
            .collect();
        self.calls(&calls)
    }

    /// The answer `err(rejection)`.
    pub(crate) fn rejection(&mut self, code: &str, detail: &str) -> Address {
        let ([code, code_length], [detail, detail_length]) =
            (self.text(code.as_bytes()), self.text(detail.as_bytes()));
        self.put(&words(&[1, code, code_length, detail, detail_length, 0]))
    }

    /// The answer `ok(needs([(lookup, arguments), …]))`.
    pub(crate) fn needs(&mut self, calls: &[(u16, &[Argument<'_>])]) -> Address {
        let answer = self.changes(calls);
        // A lookup call looks as a change does.
        self.memory[answer + 4] = 2;
        answer
    }

    /// The same of a statement, the address of its arguments, and their number.
    pub(crate) fn calls(&mut self, calls: &[(u16, Address, usize)]) -> Address {
        let changes: Vec<u8> = calls
            .iter()
            .flat_map(|(statement, at, count)| words(&[usize::from(*statement), *at, *count]))
            .collect();
        let list = self.put(&changes);
        // `ok`, `changes`, address, length; the rest is what other answers need.
        self.put(&words(&[0, 0, list, calls.len(), 0, 0]))
    }

    /// 24 bytes each: what it is at 0, the value at 8.
    pub(crate) fn arguments(&mut self, arguments: &[Argument<'_>]) -> Address {
        let mut list = Vec::new();
        for argument in arguments {
            let (case, value) = match argument {
                Argument::Int64(number) => (2, number.to_le_bytes().to_vec()),
                Argument::Float64(number) => (3, number.to_le_bytes().to_vec()),
                Argument::Decimal(number) => (4, words(&self.text(number.as_bytes()))),
                Argument::Text(text) => (5, words(&self.text(text))),
                Argument::TextAt(address, length) => (5, words(&[*address, *length])),
                Argument::Json(document) => (7, words(&self.text(document.as_bytes()))),
                Argument::Timestamp(micros) => (8, micros.to_le_bytes().to_vec()),
            };
            let mut bytes = vec![0; 24];
            bytes[0] = case;
            bytes[8..16].copy_from_slice(&value);
            list.extend(bytes);
        }
        self.put(&list)
    }

    /// The core module.
    pub(crate) fn text_format(&self) -> String {
        let memory: String = self.memory.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let Guest { declarations, describe, project, .. } = self;
        format!(
            r#"(module
  (import "$root" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 16)
  (data (i32.const 0) "{memory}")
  (global $heap (mut i32) (i32.const {HEAP}))
  (global $calls (mut i32) (i32.const 0))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  {declarations}
  (func (export "describe") (result i32) {describe})
  (func (export "project") (param $event i32) (result i32)
    (local $topic i32) (local $topic_name i32) (local $topic_name_len i32)
    (local $partition i32) (local $offset i64) (local $timestamp? i32) (local $timestamp i64)
    (local $key? i32) (local $key i32) (local $key_len i32) (local $value? i32) (local $value i32) (local $value_len i32)
    (local $headers i32) (local $headers_len i32) (local $found i32) (local $found_len i32)
    {LOADS}
    (global.set $heap (i32.const {HEAP}))
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    {project}))"#
        )
    }

    pub(crate) fn component(&self) -> Vec<u8> {
        component(&self.text_format(), &contract(), "projector:plugin/projection")
    }
}

/// What plugins are made against.
pub(crate) fn contract() -> Resolve {
    let mut resolve = Resolve::new();
    resolve.push_dir(Path::new(WIT)).unwrap();
    resolve
}

/// Wraps a core module, in text, into a component of a world.
pub(crate) fn component(module: &str, resolve: &Resolve, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(module).unwrap();
    let packages: Vec<_> = resolve.packages.iter().map(|(id, _)| id).collect();
    let world = resolve.select_world(&packages, Some(world)).unwrap();
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

/// 32 bits each, as WebAssembly keeps them.
fn words(numbers: &[usize]) -> Vec<u8> {
    numbers.iter().flat_map(|number| (*number as u32).to_le_bytes()).collect()
}
