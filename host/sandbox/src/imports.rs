//! Explains forbidden imports: which crate most likely brings an import, and what to do.
//!
//! A projection is a pure function, so a plugin may import nothing but the contract's types and `log`. Crates
//! bring other imports without a word, so the name of an import alone does not help an author.

use std::fmt;

/// A function that a core module imports.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Import {
    module: String,
    name: String,
}

/// Forbidden imports of a core module or a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forbidden {
    /// The import that tells most: `__wbindgen_placeholder__::__wbg_new0_1234`, or a component's
    /// `wasi:clocks/wall-clock`.
    name: String,
    others: usize,
    origin: &'static Origin,
}

#[derive(Debug, PartialEq, Eq)]
struct Origin {
    /// An import is of this origin if its name contains one of these.
    signs: &'static [&'static str],
    from: &'static str,
    remedy: &'static str,
}

const JAVASCRIPT: &str = "`cargo tree --target wasm32-unknown-unknown -i wasm-bindgen` names the crate that depends on wasm-bindgen";

/// The first match counts. So entries for functions come before the entry for their module.
const ORIGINS: &[Origin] = &[
    Origin {
        signs: &[
            "__wbg_new0",
            "__wbg_getTime",
            "__wbg_getTimezoneOffset",
            "__wbg_getDate",
            "__wbg_getFullYear",
        ],
        from: "JavaScript's Date by wasm-bindgen, most likely `chrono` with its default features",
        remedy: "chrono = { version = \"0.4\", default-features = false, features = [\"serde\"] }, and take the time from the event",
    },
    Origin {
        signs: &[
            "getRandomValues",
            "randomFillSync",
            "__wbg_crypto",
            "__wbg_msCrypto",
            "__getrandom",
            "random_get",
            "wasi:random",
        ],
        from: "randomness, most likely `getrandom`, which `uuid` (v4, v7), `rand` and `ahash` use",
        remedy: "a projection is a pure function: take ids from the event, or derive them from the event (uuid = { default-features = false, features = [\"v5\"] })",
    },
    Origin {
        signs: &["__wbg_now", "__wbg_performance", "clock_time_get", "wasi:clocks"],
        from: "a clock, most likely `std::time`, `web-time` or `instant`",
        remedy: "an event carries its own time: use the payload or `event.timestamp_ms`",
    },
    Origin {
        signs: &["__wbindgen", "wbg"],
        from: "JavaScript by wasm-bindgen, most likely through `chrono` (default features), `getrandom` or `uuid` (`js` or `wasm_js`), or `web-sys`",
        remedy: JAVASCRIPT,
    },
    Origin {
        signs: &["wasi_snapshot_preview1", "wasi_unstable", "wasi:"],
        from: "WASI: the module was built for a wasip1 or wasip2 target",
        remedy: "build the plugin with --target wasm32-unknown-unknown",
    },
    Origin {
        signs: &["gojs", "go."],
        from: "JavaScript by Go's own glue",
        remedy: "build the plugin with GOOS=wasip1 -buildmode=c-shared",
    },
    Origin {
        signs: &["env::"],
        from: "a function of a C library or of an `extern` block, which no crate of the plugin defines",
        remedy: "remove the crate that needs the function, or link the library that defines it",
    },
];

const UNKNOWN: &Origin = &Origin {
    signs: &[],
    from: "nothing that the host provides",
    remedy: "a projection is a pure function, and may import nothing but `log`; build the plugin for wasm32-unknown-unknown, without WASI",
};

impl Forbidden {
    /// From the name of a component's import.
    pub(super) fn by_component(name: &str) -> Self {
        Self { name: name.to_owned(), others: 0, origin: origin(name) }
    }

    /// From a core module, before it becomes a component. `None` if all imports are permitted, or if the
    /// module cannot be read.
    pub fn by_module(module: &[u8]) -> Option<Self> {
        let imports = Reader { bytes: module.get(8..)? }.imports()?;
        let forbidden: Vec<String> = imports
            .into_iter()
            .filter(|import| import.module != "$root" && !import.module.starts_with("projector:plugin/"))
            .map(|import| format!("{}::{}", import.module, import.name))
            .collect();
        // Shows the import that tells most about its origin.
        let tells =
            |name: &&String| ORIGINS.iter().position(|origin| origin.fits(name)).unwrap_or(usize::MAX);
        let name = forbidden.iter().min_by_key(tells)?;
        Some(Self { name: name.clone(), others: forbidden.len() - 1, origin: origin(name) })
    }
}

impl Origin {
    fn fits(&self, name: &str) -> bool {
        self.signs.iter().any(|sign| name.contains(sign))
    }
}

fn origin(name: &str) -> &'static Origin {
    ORIGINS.iter().find(|origin| origin.fits(name)).unwrap_or(UNKNOWN)
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Forbidden { name, others, origin } = self;
        write!(f, "the plugin imports `{}`", projector_core::event_failure::printable(name))?;
        match others {
            0 => {}
            1 => f.write_str(" and one more function")?,
            others => write!(f, " and {others} more functions")?,
        }
        write!(f, ": {}; {}", origin.from, origin.remedy)
    }
}

/// Reads sections of a module or component.
pub(super) struct Reader<'m> {
    pub(super) bytes: &'m [u8],
}

impl<'m> Reader<'m> {
    fn imports(&mut self) -> Option<Vec<Import>> {
        const IMPORTS: u8 = 2;
        while !self.bytes.is_empty() {
            let id = self.byte()?;
            let size = self.number()? as usize;
            let section = self.bytes.get(..size)?;
            if id == IMPORTS {
                return Reader { bytes: section }.functions();
            }
            self.bytes = &self.bytes[size..];
        }
        Some(Vec::new())
    }

    fn functions(&mut self) -> Option<Vec<Import>> {
        let count = self.number()?;
        let mut found = Vec::new();
        for _ in 0..count {
            let import = Import { module: self.name()?, name: self.name()? };
            match self.byte()? {
                0x00 => drop(self.number()?),
                0x01 => {
                    self.byte()?;
                    self.limits()?;
                }
                0x02 => self.limits()?,
                0x03 => drop((self.byte()?, self.byte()?)),
                0x04 => drop((self.byte()?, self.number()?)),
                _ => return None,
            }
            found.push(import);
        }
        Some(found)
    }

    fn limits(&mut self) -> Option<()> {
        let flags = self.byte()?;
        self.number()?;
        if flags & 1 == 1 {
            self.number()?;
        }
        Some(())
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// LEB128.
    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A length, and this many bytes.
    pub(super) fn sized(&mut self) -> Option<&'m [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (sized, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(sized)
    }

    fn name(&mut self) -> Option<String> {
        self.sized().map(|name| String::from_utf8_lossy(name).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_shown_with_its_crate_and_the_remedy() {
        for (name, crates, remedy) in [
            ("__wbindgen_placeholder__::__wbg_new0_f788a2397c7ca929", "chrono", "default-features = false"),
            ("__wbindgen_placeholder__::__wbg_getRandomValues_3d90134a348e46b3", "getrandom", "v5"),
            ("__wbindgen_placeholder__::__wbindgen_throw", "wasm-bindgen", "cargo tree"),
            ("__wbindgen_externref_xform__::__wbindgen_externref_table_grow", "wasm-bindgen", "cargo tree"),
            ("wbg::__wbg_now_807e54c39636c349", "std::time", "event.timestamp_ms"),
            ("wasi_snapshot_preview1::random_get", "getrandom", "pure function"),
            ("wasi_snapshot_preview1::fd_write", "WASI", "wasm32-unknown-unknown"),
            ("wasi:clocks/monotonic-clock@0.2.6", "std::time", "event.timestamp_ms"),
            ("wasi:cli/environment@0.2.6", "WASI", "wasm32-unknown-unknown"),
            ("env::sqlite3_open", "C library", "link"),
            ("random", "nothing that the host provides", "without WASI"),
        ] {
            let text = Forbidden::by_component(name).to_string();
            assert!(text.starts_with(&format!("the plugin imports `{name}`")), "{text}");
            assert!(text.contains(crates) && text.contains(remedy), "{text}");
        }
    }

    #[test]
    fn a_module_that_is_cut_anywhere_is_an_error() {
        let module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x16\x01\x03wbg\x0e__wbg_now_1234\0\0";
        for end in 0..module.len() {
            assert_eq!(Forbidden::by_module(&module[..end]), None, "{end}");
        }
    }
}
