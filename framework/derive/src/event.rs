//! `#[derive(Event)]`.

use std::collections::BTreeMap;

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Error, Ident, Result, spanned::Spanned};

use crate::{
    attrs::{Attrs, Place, refuse_generics},
    fields::Fields,
    history::History,
};

const PATHS: &[&str] = &["event"];

/// A variant, or the whole struct.
struct Live {
    constructor: TokenStream,
    fields: Fields,
    history: History,
}

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    refuse_generics(input, "an event")?;
    let (live, retired) = match &input.data {
        Data::Enum(data) => {
            let attrs = Attrs::parse(&input.attrs, PATHS, Place::EventEnum)?;
            let live = collect(data.variants.iter().map(|variant| {
                let attrs = Attrs::parse(&variant.attrs, PATHS, Place::EventVariant)?;
                let ident = &variant.ident;
                live(quote!(Self::#ident), ident, &variant.fields, attrs)
            }))?;
            (live, attrs.retired)
        }
        Data::Struct(data) => {
            let mut attrs = Attrs::parse(&input.attrs, PATHS, Place::EventStruct)?;
            let retired = std::mem::take(&mut attrs.retired);
            (vec![live(quote!(Self), &input.ident, &data.fields, attrs)?], retired)
        }
        Data::Union(data) => {
            let text = "an event is an enum or a struct: a union does not say what it holds";
            return Err(Error::new(data.union_token.span(), text));
        }
    };
    let retired = collect(retired.into_iter().map(History::retired))?;
    // Retired names first: of two equal names, the one in use is the one to change.
    refuse_duplicates(retired.iter().chain(live.iter().map(|live| &live.history)))?;
    Ok(implement(&input.ident, &live, &retired))
}

fn live(
    constructor: TokenStream,
    ident: &Ident,
    fields: &syn::Fields,
    mut attrs: Attrs,
) -> Result<Live> {
    let history = History::of(ident, &mut attrs)?;
    Ok(Live { constructor, fields: Fields::parse(fields, PATHS)?, history })
}

/// All values, or all errors at once.
fn collect<T>(results: impl Iterator<Item = Result<T>>) -> Result<Vec<T>> {
    let (mut values, mut errors) = (Vec::new(), None::<Error>);
    for result in results {
        match (result, &mut errors) {
            (Ok(value), _) => values.push(value),
            (Err(error), Some(errors)) => errors.combine(error),
            (Err(error), None) => errors = Some(error),
        }
    }
    errors.map_or(Ok(values), Err)
}

fn refuse_duplicates<'a>(histories: impl Iterator<Item = &'a History>) -> Result<()> {
    let mut seen = BTreeMap::new();
    for History { name, name_span, .. } in histories {
        if seen.insert(name, ()).is_some() {
            let text = format!(
                "{name:?} already stands for another event of this type, in use or retired; give \
                 this one another name, with `#[event(name = \"...\")]`"
            );
            return Err(Error::new(*name_span, text));
        }
    }
    Ok(())
}

fn implement(ident: &Ident, live: &[Live], retired: &[History]) -> TokenStream {
    let schemas = live.iter().map(|live| &live.history).chain(retired).map(History::schema);
    let schema = live.iter().map(|Live { constructor, history, .. }| {
        let schema = history.schema();
        quote!(#constructor { .. } => #schema)
    });
    let encode = live.iter().map(|Live { constructor, fields, history }| {
        let (pattern, encode) = (fields.pattern(constructor), fields.encode(&history.name));
        quote!(#pattern => { #encode })
    });
    // A reference to an enum without variants matches nothing; the enum itself does.
    let this = if live.is_empty() { quote!(*self) } else { quote!(self) };
    let decode = live.iter().map(decode_current);
    let decode_live = live.iter().flat_map(|live| decode_old(&live.history));
    let decode_retired = retired.iter().flat_map(decode_old);
    quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl ::duractor::Event for #ident {
            fn schemas() -> &'static [::duractor::Schema] {
                &[#(#schemas),*]
            }

            fn schema(&self) -> ::duractor::Schema {
                match #this { #(#schema),* }
            }

            fn encode(&self) -> ::duractor::__private::Result<
                ::duractor::__private::Bytes,
                ::duractor::CodecError,
            > {
                match #this { #(#encode),* }
            }

            fn decode(
                __name: &::duractor::__private::str,
                __version: ::duractor::__private::u16,
                __payload: &[::duractor::__private::u8],
            ) -> ::duractor::__private::Result<
                ::duractor::__private::Vec<Self>,
                ::duractor::CodecError,
            > {
                match (__name, __version) {
                    #(#decode,)*
                    #(#decode_live,)*
                    #(#decode_retired,)*
                    _ => ::duractor::__private::Err(::duractor::__private::unknown(
                        <Self as ::duractor::Event>::schemas(),
                        __name,
                        __version,
                    )),
                }
            }
        }
    }
}

fn decode_current(Live { constructor, fields, history }: &Live) -> TokenStream {
    let History { name, newest, .. } = history;
    let value = fields.decode(constructor);
    quote! {
        (#name, #newest) => {
            let __event = { #value };
            ::duractor::__private::Ok(::duractor::__private::Vec::from([__event]))
        }
    }
}

/// One arm for each old version: decode it, and go up the chain.
fn decode_old(history: &History) -> impl Iterator<Item = TokenStream> {
    history.old.iter().enumerate().map(|(at, (version, payload))| {
        let name = &history.name;
        let chain = history.chain(at);
        let steps = chain.windows(2).map(|step| {
            let (from, to) = (&step[0], &step[1]);
            let span = from.span().resolved_at(proc_macro2::Span::call_site());
            quote_spanned! {span=>
                let __events = ::duractor::__private::upcast::<#from, #to>(__events);
            }
        });
        quote! {
            (#name, #version) => {
                let __old = <#payload as ::duractor::Payload>::decode(
                    __name, __version, __payload,
                )?;
                let __events = ::duractor::__private::Vec::from([__old]);
                #(#steps)*
                ::duractor::__private::Ok(__events)
            }
        }
    })
}
