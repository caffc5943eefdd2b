//! The options of a statement or lookup, such as `#[update(table = OrderRow, by(customer_id), …)]`.

use syn::punctuated::Punctuated;
use syn::{DeriveInput, Error, Ident, LitInt, LitStr, Path, Result, Token, parenthesized};

use crate::names;

pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) table: Path,
    pub(crate) by: Vec<Ident>,
    pub(crate) guard: Option<Ident>,
    pub(crate) once: bool,
    pub(crate) rejects_miss: bool,
    pub(crate) limit: u32,
}

impl Target {
    /// Reads the struct's attribute `kind`. It takes `table`, `name` and the options in `options`.
    pub(crate) fn of(input: &DeriveInput, kind: &str, options: &[&str]) -> Result<Self> {
        let mut table = None;
        let mut target = Self {
            name: names::kebab(&input.ident),
            table: Path::from(input.ident.clone()),
            by: Vec::new(),
            guard: None,
            once: false,
            rejects_miss: false,
            limit: 1_000,
        };
        for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident(kind)) {
            attribute.parse_nested_meta(|meta| {
                let option = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
                let known = option == "table" || option == "name" || options.contains(&option.as_str());
                match option.as_str() {
                    _ if !known => return Err(meta.error(unknown(options))),
                    "table" => table = Some(meta.value()?.parse()?),
                    "name" => target.name = meta.value()?.parse::<LitStr>()?.value(),
                    "guard" => target.guard = Some(meta.value()?.parse()?),
                    "limit" => target.limit = meta.value()?.parse::<LitInt>()?.base10_parse()?,
                    "once" => target.once = true,
                    "on_miss" => target.rejects_miss = on_miss(&meta.value()?.parse()?)?,
                    _ => {
                        let content;
                        parenthesized!(content in meta.input);
                        target.by =
                            Punctuated::<Ident, Token![,]>::parse_terminated(&content)?.into_iter().collect();
                    }
                }
                Ok(())
            })?;
        }
        target.table = table.ok_or_else(|| {
            Error::new(input.ident.span(), format!("name the table: #[{kind}(table = Row)]"))
        })?;
        if options.contains(&"by") && target.by.is_empty() {
            return Err(Error::new(
                input.ident.span(),
                format!("list the fields that select the rows: #[{kind}(table = …, by(field))]"),
            ));
        }
        Ok(target)
    }
}

fn unknown(options: &[&str]) -> String {
    let all: Vec<_> = ["table", "name"].iter().chain(options).map(|option| format!("`{option}`")).collect();
    format!("this option is unknown here: write one of {}", all.join(", "))
}

fn on_miss(given: &LitStr) -> Result<bool> {
    match given.value().as_str() {
        "reject" => Ok(true),
        "ignore" => Ok(false),
        _ => Err(Error::new(given.span(), "write \"ignore\" or \"reject\"")),
    }
}
