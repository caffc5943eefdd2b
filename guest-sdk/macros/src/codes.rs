//! The codes with which a projection ignores and rejects events.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Error, Expr, ExprCall, ExprMethodCall, ImplItemFn, Lit, LitStr, Result, Token, parenthesized};

use crate::handler::Handler;

/// `"old-schema" = "schemaVersion below 2"`. The meaning is optional.
pub(crate) struct Code {
    code: LitStr,
    meaning: Option<LitStr>,
}

impl Parse for Code {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let code = input.parse()?;
        let meaning = match input.parse::<Option<Token![=]>>()? {
            Some(_) => Some(input.parse()?),
            None => None,
        };
        Ok(Self { code, meaning })
    }
}

impl ToTokens for Code {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let (code, meaning) = (&self.code, self.meaning.as_ref().map_or_else(String::new, LitStr::value));
        tokens.extend(quote!((#code, #meaning)));
    }
}

/// Reads the list in parentheses behind `ignores` or `rejects`.
pub(crate) fn parse(input: ParseStream<'_>) -> Result<Vec<Code>> {
    let content;
    parenthesized!(content in input);
    Ok(Punctuated::<Code, Token![,]>::parse_terminated(&content)?.into_iter().collect())
}

/// Refuses a literal code that is not declared, at the place where a handler uses it.
///
/// This check sees only literals in the impl block. The test harness sees every code that is used.
pub(crate) fn check(
    function: &ImplItemFn,
    handler: &Handler,
    ignores: &[Code],
    rejects: &[Code],
) -> Result<()> {
    let mut given = Given { handler, ignores, rejects, problems: Vec::new() };
    given.visit_block(&function.block);
    let mut problems = given.problems.into_iter();
    match problems.next() {
        None => Ok(()),
        Some(first) => Err(problems.fold(first, |mut all, next| {
            all.combine(next);
            all
        })),
    }
}

struct Given<'c> {
    handler: &'c Handler,
    ignores: &'c [Code],
    rejects: &'c [Code],
    problems: Vec<Error>,
}

impl Given<'_> {
    fn verb(&mut self, verb: &str, code: Option<&Expr>) {
        let (list, declared) = match verb {
            "ignore" => ("ignores", self.ignores),
            "reject" => ("rejects", self.rejects),
            _ => return,
        };
        let Some(Expr::Lit(literal)) = code else { return };
        let Lit::Str(code) = &literal.lit else { return };
        if !declared.iter().any(|known| known.code.value() == code.value()) {
            self.problems.push(Error::new(
                code.span(),
                format!(
                    "this code is not declared: add `{list}({:?} = \"what it means\")` to #[projection(…)]",
                    code.value()
                ),
            ));
        }
    }
}

impl Visit<'_> for Given<'_> {
    fn visit_expr_method_call(&mut self, call: &ExprMethodCall) {
        let on_context = matches!(
            &*call.receiver,
            Expr::Path(receiver) if receiver.path.get_ident() == self.handler.context.as_ref()
        );
        if on_context && self.handler.context.is_some() {
            self.verb(&call.method.to_string(), call.args.first());
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &ExprCall) {
        if let Expr::Path(function) = &*call.func {
            let segments: Vec<_> =
                function.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            if let [.., of, verb] = &segments[..]
                && of == "Stop"
            {
                self.verb(verb, call.args.first());
            }
        }
        visit::visit_expr_call(self, call);
    }
}
