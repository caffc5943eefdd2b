//! `#[derive(Table)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, Ident, LitInt, LitStr, Result, Token, parenthesized};

use crate::fields::{self, Field};
use crate::{names, upsert};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let fields = fields::of(input)?;
    let options = Options::of(input, &fields)?;
    let row = &input.ident;
    let name = options.name.as_ref().map_or_else(|| names::snake(row), LitStr::value);
    let key: Vec<_> = fields.iter().filter(|field| field.attribute("key").is_some()).collect();
    if key.is_empty() {
        return Err(Error::new(row.span(), "a table needs a key: mark the columns of the key with #[key]"));
    }
    let key_types = key.iter().map(|field| field.ty);
    let key_columns: Vec<_> = key.iter().map(|field| &field.column).collect();
    let key_checks =
        key.iter().map(|field| field.is_never_null("a key column is never null: remove the Option"));
    let guard_is_version = fields::guard_is_version(&fields, options.guard.as_ref())?;
    let columns = fields.iter().map(column_declaration).collect::<Result<Vec<_>>>()?;
    let indexes = options.indexes.iter().map(Index::declaration);
    let lineage = options.lineage;
    let from_row = from_row(&name, &fields);
    let upsert = upsert::of_whole_row(row, &name, &fields, options.guard.as_ref());

    Ok(quote! {
        impl ::projector_sdk::expansion::Table for #row {
            type Key = (#(#key_types,)*);
            const TABLE: ::projector_sdk::expansion::TableDeclaration = ::projector_sdk::expansion::TableDeclaration {
                name: #name,
                columns: &[#(#columns),*],
                key: &[#(#key_columns),*],
                indexes: &[#(#indexes),*],
                lineage: #lineage,
            };
            #from_row
        }
        #upsert
        impl ::projector_sdk::expansion::Lookup for #row {
            type Row = Self;
            const LOOKUP: ::projector_sdk::expansion::LookupDeclaration = ::projector_sdk::expansion::LookupDeclaration {
                name: #name,
                table: &<Self as ::projector_sdk::expansion::Table>::TABLE,
                by: &[#(#key_columns),*],
                limit: 1,
            };
        }
        #(#key_checks)*
        #guard_is_version
    })
}

fn column_declaration(field: &Field<'_>) -> Result<TokenStream> {
    let (column, ty) = (&field.column, field.ty);
    let declared = match field.attribute("column") {
        None => quote_spanned!(ty.span()=> <#ty as ::projector_sdk::expansion::TypedColumn>::TYPE),
        Some(attribute) => {
            let Digits { precision, scale } = attribute.parse_args()?;
            quote_spanned!(ty.span()=> ::projector_sdk::expansion::decimal::<#ty>(#precision, #scale))
        }
    };
    Ok(quote_spanned! {ty.span()=>
        ::projector_sdk::expansion::ColumnDeclaration {
            name: #column,
            ty: #declared,
            nullable: <#ty as ::projector_sdk::expansion::Column>::NULLABLE,
        }
    })
}

fn from_row(name: &str, fields: &[Field<'_>]) -> TokenStream {
    let values: Vec<_> = fields.iter().map(|field| format_ident!("value_of_{}", field.ident)).collect();
    let read = fields.iter().zip(&values).map(|(field, value)| {
        let (ident, ty, place) = (field.ident, field.ty, format!("{name}.{}", field.column));
        let read = quote_spanned!(ty.span()=> ::projector_sdk::expansion::read_column::<#ty>);
        quote!(#ident: #read(#place, #value)?)
    });
    let count = fields.len();
    quote! {
        fn from_row(
            row: &[::projector_sdk::Value],
        ) -> ::core::result::Result<Self, ::std::string::String> {
            let [#(#values),*] = row else {
                return ::projector_sdk::expansion::wrong_width(#name, #count, row.len());
            };
            ::core::result::Result::Ok(Self { #(#read),* })
        }
    }
}

/// `#[table(name = "order_search", index(customer_id), index(contains(items)), guard = version, lineage)]`.
#[derive(Default)]
struct Options {
    name: Option<LitStr>,
    indexes: Vec<Index>,
    guard: Option<Ident>,
    lineage: bool,
}

impl Options {
    fn of(input: &DeriveInput, fields: &[Field<'_>]) -> Result<Self> {
        let mut options = Self::default();
        for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("table")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("name") {
                    options.name = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("guard") {
                    options.guard = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("index") {
                    let content;
                    parenthesized!(content in meta.input);
                    options.indexes.push(content.parse()?);
                } else if meta.path.is_ident("lineage") {
                    options.lineage = true;
                } else {
                    return Err(meta.error("write `name = \"…\"`, `index(…)`, `guard = …` or `lineage`"));
                }
                Ok(())
            })?;
        }
        for column in options.indexes.iter().flat_map(|index| &index.columns) {
            fields::find(fields, column, "an index")?;
        }
        Ok(options)
    }
}

struct Index {
    columns: Vec<Ident>,
    contains: bool,
}

impl Index {
    fn declaration(&self) -> TokenStream {
        let columns = self.columns.iter().map(names::column);
        let kind = if self.contains { quote!(Contains) } else { quote!(Ordered) };
        quote! {
            ::projector_sdk::expansion::IndexDeclaration {
                columns: &[#(#columns),*],
                kind: ::projector_sdk::expansion::IndexKind::#kind,
            }
        }
    }
}

impl Parse for Index {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let contains = input.peek2(syn::token::Paren);
        let columns = if contains {
            let kind: Ident = input.parse()?;
            if kind != "contains" {
                return Err(Error::new(kind.span(), "write `index(column, …)` or `index(contains(column))`"));
            }
            let content;
            parenthesized!(content in input);
            vec![content.parse()?]
        } else {
            Punctuated::<Ident, Token![,]>::parse_terminated(input)?.into_iter().collect()
        };
        if columns.is_empty() {
            return Err(input.error("list the columns of the index"));
        }
        Ok(Self { columns, contains })
    }
}

/// `decimal(18, 2)`.
struct Digits {
    precision: u8,
    scale: u8,
}

impl Parse for Digits {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let kind: Ident = input.parse()?;
        if kind != "decimal" {
            return Err(Error::new(
                kind.span(),
                "write `decimal(precision, scale)`: columns of other types have no attribute",
            ));
        }
        let content;
        parenthesized!(content in input);
        let precision: LitInt = content.parse()?;
        content.parse::<Token![,]>()?;
        let scale: LitInt = content.parse()?;
        let digits = Self { precision: precision.base10_parse()?, scale: scale.base10_parse()? };
        if !(1..=38).contains(&digits.precision) || digits.scale > digits.precision {
            return Err(Error::new(
                precision.span(),
                "the precision (the digits in total) is 1 to 38, and the scale (the digits after the point) is at most the precision",
            ));
        }
        Ok(digits)
    }
}
