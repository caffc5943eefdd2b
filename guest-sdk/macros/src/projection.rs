//! `#[projection(...)]`: from an impl block of handlers to the functions that the host calls.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Error, Ident, ImplItem, ItemImpl, LitInt, LitStr, Result, Type};

use crate::codes::{self, Code};
use crate::handler::{EventId, Handler, IdPart, Topic};

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options = Options::of(arguments)?;
    let mut block: ItemImpl = syn::parse2(item)?;
    let projection = projection_name(&block)?.clone();
    let mut topics = Vec::new();
    for item in &mut block.items {
        if let ImplItem::Fn(function) = item {
            let handler = Handler::take(function)?;
            codes::check(function, &handler, &options.ignores, &options.rejects)?;
            topics.extend(handler.topics);
        }
    }
    if topics.is_empty() {
        return Err(Error::new(
            projection.span(),
            "a projection needs at least one handler: mark a function with #[on(\"topic\", writes(Row))]",
        ));
    }
    refuse_repeated(&topics)?;
    let implementation = implementation(&projection, &options, &topics);
    Ok(quote! {
        #block
        #implementation
        #[cfg(target_arch = "wasm32")]
        ::projector_sdk::export_projection!(#projection);
    })
}

fn implementation(projection: &Ident, options: &Options, topics: &[Topic]) -> TokenStream {
    let statements = Union::of(topics.iter().flat_map(|topic| &topic.writes));
    let lookups = Union::of(topics.iter().flat_map(|topic| &topic.reads));
    let (written, read) = (&statements.types, &lookups.types);
    let (write_indices, read_indices) = (0..written.len() as u16, 0..read.len() as u16);

    let Options { name, revision, ignores, rejects, .. } = options;
    let version =
        options.version.as_ref().map_or_else(|| quote!(env!("CARGO_PKG_VERSION")), |text| quote!(#text));
    let declared_topics = topics.iter().map(|topic| {
        let (name, writes, reads) =
            (&topic.name, statements.indices(&topic.writes), lookups.indices(&topic.reads));
        let event_id = match &topic.event_id {
            None => quote!(::core::option::Option::None),
            Some(EventId { parts, window_seconds }) => {
                let parts = parts.iter().map(|part| match part {
                    IdPart::Header(name) => {
                        quote!(::projector_sdk::expansion::IdPartDeclaration::Header(#name))
                    }
                    IdPart::Field(name) => {
                        quote!(::projector_sdk::expansion::IdPartDeclaration::Field(#name))
                    }
                });
                quote! {
                    ::core::option::Option::Some(::projector_sdk::expansion::EventIdDeclaration {
                        parts: &[#(#parts),*],
                        window_seconds: #window_seconds,
                    })
                }
            }
        };
        let ordering_group = match &topic.ordering_group {
            None => quote!(::core::option::Option::None),
            Some(group) => quote!(::core::option::Option::Some(#group)),
        };
        let wait_seconds = match topic.wait_seconds {
            None => quote!(::core::option::Option::None),
            Some(seconds) => quote!(::core::option::Option::Some(#seconds)),
        };
        quote!(::projector_sdk::expansion::TopicDeclaration {
            name: #name,
            wait_seconds: #wait_seconds,
            ordering_group: #ordering_group,
            statements: &[#(#writes),*],
            lookups: &[#(#reads),*],
            event_id: #event_id,
        })
    });
    let calls = (0u16..).zip(topics).map(|(at, topic)| {
        let (name, handler) = (&topic.name, &topic.handler);
        let call = quote_spanned! {topic.takes=>
            ::projector_sdk::expansion::handle(record, found, #name, Self::#handler)
        };
        quote!(#at => #call)
    });

    quote! {
        impl ::projector_sdk::Projection for #projection {
            fn descriptor() -> ::projector_sdk::expansion::Descriptor {
                const DECLARATION: ::projector_sdk::expansion::ProjectionDeclaration =
                    ::projector_sdk::expansion::ProjectionDeclaration {
                        name: #name,
                        version: #version,
                        revision: #revision,
                        topics: &[#(#declared_topics),*],
                        statements: &[#(&<#written as ::projector_sdk::expansion::Statement>::STATEMENT),*],
                        lookups: &[#(&<#read as ::projector_sdk::expansion::Lookup>::LOOKUP),*],
                        ignores: &[#(#ignores),*],
                        rejects: &[#(#rejects),*],
                    };
                DECLARATION.describe()
            }

            fn project(
                record: &::projector_sdk::expansion::Record,
                found: ::std::vec::Vec<::projector_sdk::expansion::Found>,
            ) -> ::core::result::Result<
                ::projector_sdk::expansion::Answer,
                ::projector_sdk::model::Rejection,
            > {
                match record.topic {
                    #(#calls,)*
                    _ => ::projector_sdk::expansion::unknown_topic(record),
                }
            }
        }
        #(impl ::projector_sdk::Writes<#written> for #projection {
            const INDEX: u16 = #write_indices;
        })*
        #(impl ::projector_sdk::Reads<#read> for #projection {
            const INDEX: u16 = #read_indices;
        })*
    }
}

/// The types that the topics list, each once, in the order of their first use. This is their order in the descriptor.
struct Union<'t> {
    types: Vec<&'t Type>,
}

impl<'t> Union<'t> {
    fn of(named: impl Iterator<Item = &'t Type>) -> Self {
        let mut types: Vec<&Type> = Vec::new();
        for ty in named {
            if !types.contains(&ty) {
                types.push(ty);
            }
        }
        Self { types }
    }

    fn indices(&self, named: &[Type]) -> Vec<u16> {
        (0u16..).zip(&self.types).filter(|(_, ty)| named.contains(ty)).map(|(at, _)| at).collect()
    }
}

fn projection_name(block: &ItemImpl) -> Result<&Ident> {
    if let Some((_, path, _)) = &block.trait_ {
        return Err(Error::new(
            path.span(),
            "a projection is a plain impl block of handlers, without a trait",
        ));
    }
    match &*block.self_ty {
        Type::Path(path) => path.path.get_ident(),
        _ => None,
    }
    .filter(|_| block.generics.params.is_empty())
    .ok_or_else(|| {
        Error::new(
            block.self_ty.span(),
            "a projection is a struct without generic parameters: `pub struct OrderSearch;`",
        )
    })
}

fn refuse_repeated(topics: &[Topic]) -> Result<()> {
    for (at, topic) in topics.iter().enumerate() {
        if topics[..at].iter().any(|earlier| earlier.name.value() == topic.name.value()) {
            return Err(Error::new(topic.name.span(), "this topic already has a handler"));
        }
    }
    Ok(())
}

/// `name = "order-search", revision = 1, ignores("old-schema" = "schemaVersion below 2")`.
struct Options {
    name: LitStr,
    version: Option<LitStr>,
    revision: u32,
    ignores: Vec<Code>,
    rejects: Vec<Code>,
}

impl Options {
    fn of(arguments: TokenStream) -> Result<Self> {
        let mut name = None;
        let (mut version, mut revision) = (None, 1);
        let (mut ignores, mut rejects) = (Vec::new(), Vec::new());
        let parser = syn::meta::parser(|meta| {
            let option = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
            match option.as_str() {
                "name" => name = Some(meta.value()?.parse()?),
                "version" => version = Some(meta.value()?.parse()?),
                "revision" => revision = meta.value()?.parse::<LitInt>()?.base10_parse()?,
                "ignores" => ignores.extend(codes::parse(meta.input)?),
                "rejects" => rejects.extend(codes::parse(meta.input)?),
                _ => {
                    return Err(meta.error(
                        "write one of `name = \"…\"`, `revision = 1`, `version = \"…\"`, `ignores(\"code\" = \"meaning\")`, `rejects(…)`",
                    ));
                }
            }
            Ok(())
        });
        let span = arguments.span();
        parser.parse2(arguments)?;
        let name = name.ok_or_else(|| {
            Error::new(span, "a projection needs a name: #[projection(name = \"order-search\")]")
        })?;
        Ok(Self { name, version, revision, ignores, rejects })
    }
}
