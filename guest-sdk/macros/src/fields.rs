//! The fields of a struct with a derive, as columns.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Error, Fields, Ident, Path, Result, Type};

use crate::names;

pub(crate) struct Field<'i> {
    pub(crate) ident: &'i Ident,
    pub(crate) ty: &'i Type,
    pub(crate) column: String,
    attributes: &'i [Attribute],
}

/// The named fields of a struct without generic parameters.
pub(crate) fn of(input: &DeriveInput) -> Result<Vec<Field<'_>>> {
    if !input.generics.params.is_empty() {
        return Err(Error::new(
            input.generics.span(),
            "a row or statement has no generic parameters or lifetimes: use owned types (String instead of &str)",
        ));
    }
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(
            input.ident.span(),
            "this derive is for structs only: each field is a column",
        ));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new(
            input.ident.span(),
            "name the fields: each field is the column with its name",
        ));
    };
    Ok(fields
        .named
        .iter()
        .filter_map(|field| {
            let ident = field.ident.as_ref()?;
            Some(Field { ident, ty: &field.ty, column: names::column(ident), attributes: &field.attrs })
        })
        .collect())
}

impl<'i> Field<'i> {
    pub(crate) fn attribute(&self, name: &str) -> Option<&'i Attribute> {
        self.attributes.iter().find(|attribute| attribute.path().is_ident(name))
    }

    /// An expression that compiles only if the table has a column with this field's name and type.
    pub(crate) fn is_column_of(&self, row: &Ident) -> TokenStream {
        let (ident, ty) = (self.ident, self.ty);
        let column = quote_spanned!(ident.span()=> &#row.#ident);
        quote_spanned! {ty.span()=>
            ::projector_sdk::expansion::is_column(::core::marker::PhantomData::<#ty>, #column)
        }
    }

    /// An item that compiles only if the field is never null.
    pub(crate) fn is_never_null(&self, why: &str) -> TokenStream {
        let ty = self.ty;
        quote_spanned! {ty.span()=>
            const _: () = assert!(!<#ty as ::projector_sdk::expansion::Column>::NULLABLE, #why);
        }
    }

    pub(crate) fn value(&self) -> TokenStream {
        let (ident, ty) = (self.ident, self.ty);
        quote_spanned!(ty.span()=> <#ty as ::projector_sdk::expansion::Column>::into_value(self.#ident))
    }
}

/// An item that compiles only if every field is a column of the table.
pub(crate) fn are_columns(table: &Path, fields: &[Field<'_>]) -> TokenStream {
    let row = Ident::new("row", Span::mixed_site());
    let checks = fields.iter().map(|field| field.is_column_of(&row));
    quote_spanned! {table.span()=>
        const _: fn(&#table) = |#row| { #(#checks;)* };
    }
}

/// The field with this name. The error points at the place where the name is used.
pub(crate) fn find<'f, 'i>(fields: &'f [Field<'i>], name: &Ident, role: &str) -> Result<&'f Field<'i>> {
    fields.iter().find(|field| field.ident == name).ok_or_else(|| {
        let known: Vec<_> = fields.iter().map(|field| format!("`{}`", field.ident)).collect();
        Error::new(
            name.span(),
            format!("{role} must name a field of this struct, but `{name}` is none of {}", known.join(", ")),
        )
    })
}

/// An item that compiles only if the guard's field is never null. The field must exist.
pub(crate) fn guard_is_version(fields: &[Field<'_>], guard: Option<&Ident>) -> Result<TokenStream> {
    match guard {
        Some(guard) => Ok(find(fields, guard, "`guard`")?.is_never_null(
            "a version decides which change is newer, so it is never null: remove the Option",
        )),
        None => Ok(TokenStream::new()),
    }
}
