//! A handler: a function with `#[on("topic", writes(…), reads(…))]`.

use proc_macro2::Span;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Error, FnArg, Ident, ImplItemFn, LitStr, Pat, Result, Token, Type, parenthesized};

const SHAPE: &str = "a handler is `fn name(event: Event<Payload>, cx: &mut Context<Self>) -> Outcome`";

pub(crate) struct Handler {
    pub(crate) topics: Vec<Topic>,
    /// What the function calls its context.
    pub(crate) context: Option<Ident>,
}

pub(crate) struct Topic {
    pub(crate) name: LitStr,
    pub(crate) handler: Ident,
    /// Where the handler says what it takes.
    pub(crate) takes: Span,
    pub(crate) writes: Vec<Type>,
    pub(crate) reads: Vec<Type>,
}

impl Handler {
    /// Takes the `#[on(…)]` off a function. One without any is no handler, and has no topics.
    pub(crate) fn take(function: &mut ImplItemFn) -> Result<Self> {
        let (on, others): (Vec<_>, Vec<_>) =
            function.attrs.drain(..).partition(|attribute| attribute.path().is_ident("on"));
        function.attrs = others;
        if on.is_empty() {
            return Ok(Self { topics: Vec::new(), context: None });
        }
        let (event, context) = match function.sig.inputs.iter().collect::<Vec<_>>()[..] {
            [FnArg::Receiver(this), ..] => {
                return Err(Error::new(
                    this.span(),
                    format!("a projection keeps nothing between events, so it has no `self`: {SHAPE}"),
                ));
            }
            [FnArg::Typed(event), FnArg::Typed(context)] => (event, context),
            _ => return Err(Error::new(function.sig.ident.span(), SHAPE)),
        };
        let topic = |attribute: &Attribute| {
            let On { name, writes, reads } = attribute.parse_args()?;
            let handler = function.sig.ident.clone();
            Ok(Topic { name, handler, takes: event.ty.span(), writes, reads })
        };
        let context = match &*context.pat {
            Pat::Ident(named) => Some(named.ident.clone()),
            _ => None,
        };
        Ok(Self { topics: on.iter().map(topic).collect::<Result<_>>()?, context })
    }
}

struct On {
    name: LitStr,
    writes: Vec<Type>,
    reads: Vec<Type>,
}

impl Parse for On {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name = input.parse().map_err(|error| {
            Error::new(error.span(), "the topic comes first: #[on(\"topic\", writes(Row))]")
        })?;
        let mut on = Self { name, writes: Vec::new(), reads: Vec::new() };
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let option: Ident = input.parse()?;
            let content;
            let list = match option.to_string().as_str() {
                "writes" => &mut on.writes,
                "reads" => &mut on.reads,
                _ => return Err(Error::new(option.span(), "write `writes(…)` or `reads(…)`")),
            };
            parenthesized!(content in input);
            list.extend(Punctuated::<Type, Token![,]>::parse_terminated(&content)?);
        }
        Ok(on)
    }
}
