//! `#[derive(Update)]`, `#[derive(Delete)]` and `#[derive(Lookup)]`, which select rows by some of their fields.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, Ident, Result};

use crate::declaration::{Declaration, operation};
use crate::fields::{self, Field};
use crate::target::Target;

pub(crate) fn expand_update(input: &DeriveInput) -> Result<TokenStream> {
    let target = Target::of(input, "update", &["by", "guard", "on_miss"])?;
    let fields = fields::of(input)?;
    let Selection { by, others: set } = Selection::of(&target, &fields)?;
    if let Some(field) = by.iter().find(|field| field.attribute("operation").is_some()) {
        return Err(Error::new(
            field.ident.span(),
            "this field selects the rows, so it cannot have an operation",
        ));
    }
    if set.is_empty() {
        return Err(Error::new(
            input.ident.span(),
            "this update has no fields beside those of `by`, so it does nothing",
        ));
    }
    let operations = set.iter().map(|field| operation(field)).collect::<Result<Vec<_>>>()?;
    let table = &target.table;
    let set_columns = set.iter().map(|field| &field.column);
    let keeps_key = quote_spanned! {table.span()=>
        const _: () = ::projector_sdk::expansion::all_keep_the_key(
            &<#table as ::projector_sdk::expansion::Table>::TABLE,
            &[#(#set_columns),*],
        );
    };
    let selection = Selection { by, others: set };
    let checks = selection.checks(&target, &fields)?;
    let statement = selection.statement(&input.ident, &target, quote!(Update), operations);
    Ok(quote!(#checks #keeps_key #statement))
}

pub(crate) fn expand_delete(input: &DeriveInput) -> Result<TokenStream> {
    let target = Target::of(input, "delete", &["by", "guard", "on_miss"])?;
    let fields = fields::of(input)?;
    let selection = Selection::of(&target, &fields)?;
    if let Some(odd) = selection.others.iter().find(|field| target.guard.as_ref() != Some(field.ident)) {
        return Err(Error::new(
            odd.ident.span(),
            "a delete has only the fields of `by`, and the field of its `guard`",
        ));
    }
    let version = selection.others.iter().map(|_| quote!(Set)).collect();
    let checks = selection.checks(&target, &fields)?;
    let statement = selection.statement(&input.ident, &target, quote!(Delete), version);
    Ok(quote!(#checks #statement))
}

pub(crate) fn expand_lookup(input: &DeriveInput) -> Result<TokenStream> {
    let target = Target::of(input, "lookup", &["by", "limit"])?;
    let fields = fields::of(input)?;
    let selection = Selection::of(&target, &fields)?;
    if let Some(odd) = selection.others.first() {
        return Err(Error::new(
            odd.ident.span(),
            "a lookup selects by all of its fields: list this field in `by(…)`",
        ));
    }
    let (ident, table, name, limit) = (&input.ident, &target.table, &target.name, target.limit);
    let by = selection.columns();
    let arguments = selection.by.iter().map(|field| field.value());
    let checks = selection.checks(&target, &fields)?;
    Ok(quote! {
        #checks
        impl ::projector_sdk::expansion::Lookup for #ident {
            type Row = #table;
            const LOOKUP: ::projector_sdk::expansion::LookupDeclaration =
                ::projector_sdk::expansion::LookupDeclaration {
                    name: #name,
                    table: &<#table as ::projector_sdk::expansion::Table>::TABLE,
                    by: &[#(#by),*],
                    limit: #limit,
                };
        }
        impl ::projector_sdk::expansion::Query for #ident {
            fn into_arguments(self) -> ::std::vec::Vec<::projector_sdk::Value> {
                ::std::vec![#(#arguments),*]
            }
        }
    })
}

struct Selection<'f, 'i> {
    /// In the order of `by(…)`.
    by: Vec<&'f Field<'i>>,
    /// In the struct's order.
    others: Vec<&'f Field<'i>>,
}

impl<'f, 'i> Selection<'f, 'i> {
    fn of(target: &Target, fields: &'f [Field<'i>]) -> Result<Self> {
        let by =
            target.by.iter().map(|name| fields::find(fields, name, "`by`")).collect::<Result<Vec<_>>>()?;
        let others = fields.iter().filter(|field| !target.by.contains(field.ident)).collect();
        Ok(Self { by, others })
    }

    fn columns(&self) -> Vec<&'f str> {
        self.by.iter().map(|field| field.column.as_str()).collect()
    }

    fn checks(&self, target: &Target, fields: &[Field<'_>]) -> Result<TokenStream> {
        let are_columns = fields::are_columns(&target.table, fields);
        let never_null =
            self.by.iter().map(|field| field.is_never_null("null selects no row: remove the Option"));
        let guard_is_version = fields::guard_is_version(fields, target.guard.as_ref())?;
        Ok(quote!(#are_columns #(#never_null)* #guard_is_version))
    }

    fn statement(
        &self,
        ident: &Ident,
        target: &Target,
        kind: TokenStream,
        operations: Vec<TokenStream>,
    ) -> TokenStream {
        let others = self.others.iter().map(|field| field.column.as_str());
        let declared = Declaration {
            name: &target.name,
            table: &target.table.to_token_stream(),
            kind,
            by: self.columns(),
            fields: others.zip(operations).collect(),
            guard: target.guard.as_ref(),
            rejects_miss: target.rejects_miss,
        }
        .expand();
        let arguments = self.by.iter().chain(&self.others).map(|field| field.value());
        quote! {
            impl ::projector_sdk::expansion::Statement for #ident {
                #declared

                fn into_arguments(self) -> ::std::vec::Vec<::projector_sdk::Value> {
                    ::std::vec![#(#arguments),*]
                }
            }
        }
    }
}
