//! The constant `STATEMENT`, which every kind of statement has.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, Ident, Result};

use crate::fields::Field;
use crate::names;

pub(crate) struct Declaration<'d> {
    pub(crate) name: &'d str,
    pub(crate) table: &'d TokenStream,
    /// A variant of `StatementKind`.
    pub(crate) kind: TokenStream,
    pub(crate) by: Vec<&'d str>,
    /// Each column with a variant of `Operation`.
    pub(crate) fields: Vec<(&'d str, TokenStream)>,
    pub(crate) guard: Option<&'d Ident>,
    pub(crate) rejects_miss: bool,
}

impl Declaration<'_> {
    pub(crate) fn expand(&self) -> TokenStream {
        let Self { name, table, kind, by, fields, .. } = self;
        let fields = fields
            .iter()
            .map(|(column, operation)| quote!((#column, ::projector_sdk::expansion::Operation::#operation)));
        let guard = match self.guard.map(names::column) {
            Some(column) => quote!(::core::option::Option::Some(#column)),
            None => quote!(::core::option::Option::None),
        };
        let on_miss = if self.rejects_miss { quote!(Reject) } else { quote!(Ignore) };
        quote! {
            const STATEMENT: ::projector_sdk::expansion::StatementDeclaration =
                ::projector_sdk::expansion::StatementDeclaration {
                    name: #name,
                    table: &<#table as ::projector_sdk::expansion::Table>::TABLE,
                    kind: ::projector_sdk::expansion::StatementKind::#kind,
                    by: &[#(#by),*],
                    fields: &[#(#fields),*],
                    guard: #guard,
                    on_miss: ::projector_sdk::expansion::OnMiss::#on_miss,
                };
        }
    }
}

/// A field's `#[operation(…)]` as a variant of `Operation`.
pub(crate) fn operation(field: &Field<'_>) -> Result<TokenStream> {
    let Some(attribute) = field.attribute("operation") else { return Ok(quote!(Set)) };
    let operation: Ident = attribute.parse_args()?;
    Ok(match operation.to_string().as_str() {
        "set" => quote!(Set),
        "add" => quote!(Add),
        "min" => quote!(Min),
        "max" => quote!(Max),
        "set_if_null" => quote!(SetIfNull),
        "keep" => quote!(Keep),
        _ => {
            return Err(Error::new(
                operation.span(),
                "write one of `set`, `add`, `min`, `max`, `set_if_null`, `keep`",
            ));
        }
    })
}
