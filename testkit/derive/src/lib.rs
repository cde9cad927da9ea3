//! The attribute macro of simulated tests. Use it as `duractor_testkit::sim::sim_test`.

use proc_macro::TokenStream;
use quote::quote;
use syn::{
    Expr, Ident, ItemFn, Token,
    parse::{Parse, ParseStream},
    parse_macro_input,
};

/// Makes a test of an async function that takes a `World`: it runs on a simulated cluster, once for each seed.
///
/// ```ignore
/// // It names an application and a test that are not here.
/// #[sim_test(app, nodes = 3, seeds = 200)]
/// async fn nothing_is_lost(world: World) { .. }
/// ```
///
/// First comes the application: a function `fn(NodeBuilder, &World) -> NodeBuilder`, or a `Sim` (`sim = ..`)
/// where more is to be said. Then, in any order, the methods of `Sim` that take one value: `nodes`, `shards`,
/// `seeds`, `threads`, `without`.
#[proc_macro_attribute]
pub fn sim_test(options: TokenStream, item: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as Options);
    let test = parse_macro_input!(item as ItemFn);
    expand(&options, &test).unwrap_or_else(syn::Error::into_compile_error).into()
}

struct Options {
    sim: proc_macro2::TokenStream,
    calls: Vec<(Ident, Expr)>,
}

const METHODS: [&str; 5] = ["nodes", "shards", "seeds", "threads", "without"];

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut sim = None;
        let mut calls = Vec::new();
        while !input.is_empty() {
            if input.peek(Ident) && input.peek2(Token![=]) {
                let name: Ident = input.parse()?;
                input.parse::<Token![=]>()?;
                let value: Expr = input.parse()?;
                if name == "sim" && sim.is_none() {
                    sim = Some(quote!(#value));
                } else if METHODS.iter().any(|method| name == method) {
                    calls.push((name, value));
                } else {
                    let text = format!("one of sim, {}", METHODS.join(", "));
                    return Err(syn::Error::new(name.span(), text));
                }
            } else if sim.is_none() {
                let app: Expr = input.parse()?;
                sim = Some(quote!(::duractor_testkit::sim::Sim::new(#app)));
            } else {
                return Err(input.error("the application is given already"));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        let sim =
            sim.ok_or_else(|| input.error("the application comes first: #[sim_test(app, ..)]"))?;
        Ok(Self { sim, calls })
    }
}

fn expand(options: &Options, test: &ItemFn) -> syn::Result<proc_macro2::TokenStream> {
    let signature = &test.sig;
    if signature.asyncness.is_none() || signature.inputs.len() != 1 {
        let text = "a simulated test is an `async fn` that takes a `World`";
        return Err(syn::Error::new_spanned(signature, text));
    }
    let Options { sim, calls } = options;
    let (methods, values): (Vec<_>, Vec<_>) =
        calls.iter().map(|(name, value)| (name, value)).unzip();
    let (attributes, visibility, name) = (&test.attrs, &test.vis, &signature.ident);
    let (inputs, output, body) = (&signature.inputs, &signature.output, &test.block);
    let path = quote!(::core::concat!(::core::module_path!(), "::", ::core::stringify!(#name)));
    Ok(quote! {
        #[cfg_attr(test, test)]
        #(#attributes)*
        #visibility fn #name() {
            async fn #name(#inputs) #output #body
            let sim = #sim #(.#methods(#values))*;
            sim.test(::duractor_testkit::sim::test_name(#path), #name);
        }
    })
}
