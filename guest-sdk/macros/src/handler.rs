//! A handler: a function with the attribute
//! `#[on("topic", writes(…), reads(…), event_id(…), ordering_group = "…", waits = "…")]`.

use proc_macro2::Span;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, Ident, ImplItemFn, Lit, LitStr, MetaNameValue, Pat, Result,
    Token, Type, parenthesized,
};

const SHAPE: &str = "a handler is `fn name(event: Event<Payload>, cx: &mut Context<Self>) -> Outcome`";

pub(crate) struct Handler {
    pub(crate) topics: Vec<Topic>,
    /// The name of the function's context parameter.
    pub(crate) context: Option<Ident>,
}

pub(crate) struct Topic {
    pub(crate) name: LitStr,
    pub(crate) handler: Ident,
    /// The place of the handler's event type, for error messages.
    pub(crate) takes: Span,
    pub(crate) writes: Vec<Type>,
    pub(crate) reads: Vec<Type>,
    pub(crate) event_id: Option<EventId>,
    pub(crate) ordering_group: Option<LitStr>,
    pub(crate) wait_seconds: Option<u32>,
}

/// `event_id(header = "ce_source", header = "ce_id", window = "7d")`.
pub(crate) struct EventId {
    pub(crate) parts: Vec<IdPart>,
    pub(crate) window_seconds: u32,
}

pub(crate) enum IdPart {
    Header(LitStr),
    Field(LitStr),
}

impl Handler {
    /// Removes the `#[on(…)]` attributes from a function, and reads them. A function without them has no topics: it is not
    /// a handler.
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
                    format!(
                        "a projection keeps no state between events, so a handler has no `self`: {SHAPE}"
                    ),
                ));
            }
            [FnArg::Typed(event), FnArg::Typed(context)] => (event, context),
            _ => return Err(Error::new(function.sig.ident.span(), SHAPE)),
        };
        let topic = |attribute: &Attribute| {
            let On { name, writes, reads, event_id, ordering_group, wait_seconds } =
                attribute.parse_args()?;
            let handler = function.sig.ident.clone();
            let takes = event.ty.span();
            Ok(Topic { name, handler, takes, writes, reads, event_id, ordering_group, wait_seconds })
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
    event_id: Option<EventId>,
    ordering_group: Option<LitStr>,
    wait_seconds: Option<u32>,
}

impl Parse for On {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name = input.parse().map_err(|error| {
            Error::new(error.span(), "the topic comes first: #[on(\"topic\", writes(Row))]")
        })?;
        let mut on = Self {
            name,
            writes: Vec::new(),
            reads: Vec::new(),
            event_id: None,
            ordering_group: None,
            wait_seconds: None,
        };
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
                "event_id" => {
                    parenthesized!(content in input);
                    on.event_id = Some(content.parse()?);
                    continue;
                }
                "ordering_group" => {
                    input.parse::<Token![=]>()?;
                    on.ordering_group = Some(input.parse()?);
                    continue;
                }
                "waits" => {
                    input.parse::<Token![=]>()?;
                    on.wait_seconds = Some(seconds(&input.parse()?)?);
                    continue;
                }
                _ => {
                    let known = "write `writes(…)`, `reads(…)`, `event_id(…)`, `ordering_group = \"…\"` or `waits = \"24h\"`";
                    return Err(Error::new(option.span(), known));
                }
            };
            parenthesized!(content in input);
            list.extend(Punctuated::<Type, Token![,]>::parse_terminated(&content)?);
        }
        Ok(on)
    }
}

const EVENT_ID: &str = "write `event_id(header = \"x-event-id\", window = \"7d\")`, with `field` instead of `header` for a field of the payload, and with several of them for an id in parts";

impl Parse for EventId {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let (mut parts, mut window) = (Vec::new(), None);
        let options = Punctuated::<MetaNameValue, Token![,]>::parse_terminated(input)?;
        for option in &options {
            let Expr::Lit(ExprLit { lit: Lit::Str(value), .. }) = &option.value else {
                return Err(Error::new(option.value.span(), EVENT_ID));
            };
            match option.path.get_ident().map(Ident::to_string).as_deref() {
                Some("header") => parts.push(IdPart::Header(value.clone())),
                Some("field") => parts.push(IdPart::Field(value.clone())),
                Some("window") => window = Some(seconds(value)?),
                _ => return Err(Error::new(option.path.span(), EVENT_ID)),
            }
        }
        match window {
            Some(window_seconds) if !parts.is_empty() => Ok(Self { parts, window_seconds }),
            _ => Err(input.error(EVENT_ID)),
        }
    }
}

/// Reads a time, `7d`, `36h`, `90m` or `30s`, in seconds.
fn seconds(written: &LitStr) -> Result<u32> {
    let text = written.value();
    let unit = text.chars().last().and_then(|unit| match unit {
        'd' => Some(86_400),
        'h' => Some(3_600),
        'm' => Some(60),
        's' => Some(1),
        _ => None,
    });
    let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u32>().ok());
    unit.zip(number)
        .and_then(|(unit, number)| number.checked_mul(unit))
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| Error::new(written.span(), "write a time like \"7d\", \"36h\", \"90m\" or \"30s\""))
}
