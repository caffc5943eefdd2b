//! `#[derive(Upsert)]`, and the upsert of a whole row that `#[derive(Table)]` generates.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Ident, Result};

use crate::declaration::{Declaration, operation};
use crate::fields::{self, Field};
use crate::target::Target;

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let target = Target::of(input, "upsert", &["guard", "once"])?;
    let fields = fields::of(input)?;
    let guard_is_version = fields::guard_is_version(&fields, target.guard.as_ref())?;
    let operations = fields.iter().map(operation).collect::<Result<Vec<_>>>()?;
    let columns = fields.iter().map(|field| field.column.as_str());
    let table = target.table.to_token_stream();
    let declaration = Declaration {
        name: &target.name,
        table: &table,
        kind: if target.once { quote!(InsertOnce) } else { quote!(Upsert) },
        by: Vec::new(),
        fields: columns.zip(operations).collect(),
        guard: target.guard.as_ref(),
        rejects_miss: false,
    };
    let statement = statement(&input.ident, &declaration, &fields);
    let are_columns = fields::are_columns(&target.table, &fields);
    Ok(quote!(#are_columns #guard_is_version #statement))
}

/// The upsert of all of a table's columns, named after the table.
pub(crate) fn of_whole_row(
    row: &Ident,
    name: &str,
    fields: &[Field<'_>],
    guard: Option<&Ident>,
) -> TokenStream {
    let declaration = Declaration {
        name,
        table: &row.to_token_stream(),
        kind: quote!(Upsert),
        by: Vec::new(),
        fields: fields.iter().map(|field| (field.column.as_str(), quote!(Set))).collect(),
        guard,
        rejects_miss: false,
    };
    statement(row, &declaration, fields)
}

/// The position of each field among the arguments depends on the table's key, which the macro cannot see. So the generated
/// code computes the positions as a constant.
fn statement(ident: &Ident, declaration: &Declaration<'_>, fields: &[Field<'_>]) -> TokenStream {
    let table = declaration.table;
    let declared = declaration.expand();
    let columns = fields.iter().map(|field| &field.column);
    let values = fields.iter().map(Field::value);
    let count = fields.len();
    let at = 0..count;
    let positions = quote_spanned! {table.span()=>
        ::projector_sdk::expansion::argument_positions(
            &<#table as ::projector_sdk::expansion::Table>::TABLE,
            [#(#columns),*],
        )
    };
    quote! {
        const _: () = {
            const POSITIONS: [usize; #count] = #positions;

            impl ::projector_sdk::expansion::Statement for #ident {
                #declared

                fn into_arguments(self) -> ::std::vec::Vec<::projector_sdk::Value> {
                    let mut arguments = ::std::vec![::projector_sdk::Value::Null; #count];
                    #(arguments[POSITIONS[#at]] = #values;)*
                    arguments
                }
            }
        };
    }
}
