//! `#[derive(Command)]`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Error, Result, spanned::Spanned};

use crate::{
    attrs::{Attrs, Place, refuse_generics},
    fields::Fields,
    history::History,
};

const PATHS: &[&str] = &["command"];

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    refuse_generics(input, "a command")?;
    let data = match &input.data {
        Data::Struct(data) => data,
        Data::Enum(data) => {
            let text = "a command is a struct: write one for each, so that each has its own reply";
            return Err(Error::new(data.enum_token.span(), text));
        }
        Data::Union(data) => {
            return Err(Error::new(data.union_token.span(), "a command is a struct"));
        }
    };
    let mut attrs = Attrs::parse(&input.attrs, PATHS, Place::CommandStruct)?;
    let history = History::of(&input.ident, &mut attrs)?;
    let fields = Fields::parse(&data.fields, PATHS)?;
    let Some(reply) = attrs.reply else {
        let text = format!(
            "the command `{0}` does not say what is replied to it: write `#[command(reply = \
             Type)]` above it, or `#[command(reply = ())]` where the confirmation is enough",
            input.ident
        );
        return Err(Error::new(input.ident.span(), text));
    };

    let (ident, constructor) = (&input.ident, quote!(Self));
    let History { name, newest, .. } = &history;
    let (pattern, encode) = (fields.pattern(&constructor), fields.encode(name));
    let (decode, decode_old) = (fields.decode(&constructor), decode_old(&history));
    let schema = history.schema();
    Ok(quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl ::duractor::Command for #ident {
            type Reply = #reply;
            const NAME: &'static ::duractor::__private::str = #name;
            const VERSION: ::duractor::__private::u16 = #newest;

            fn encode(&self) -> ::duractor::__private::Result<
                ::duractor::__private::Bytes,
                ::duractor::CodecError,
            > {
                let #pattern = self;
                #encode
            }

            fn decode(
                __version: ::duractor::__private::u16,
                __payload: &[::duractor::__private::u8],
            ) -> ::duractor::__private::Result<Self, ::duractor::CodecError> {
                let __name = #name;
                match __version {
                    #newest => ::duractor::__private::Ok({ #decode }),
                    #(#decode_old,)*
                    _ => ::duractor::__private::Err(::duractor::__private::unknown(
                        &[#schema],
                        __name,
                        __version,
                    )),
                }
            }
        }
    })
}

/// One arm for each old version: decode it, and go up the chain.
fn decode_old(history: &History) -> impl Iterator<Item = TokenStream> {
    history.old.iter().enumerate().map(|(at, (version, payload))| {
        let chain = history.chain(at);
        let steps = chain.windows(2).map(|step| {
            let (from, to) = (&step[0], &step[1]);
            let span = from.span().resolved_at(Span::call_site());
            quote_spanned! {span=>
                let __command = <#to as ::duractor::__private::From<#from>>::from(__command);
            }
        });
        quote! {
            #version => {
                let __command = <#payload as ::duractor::Payload>::decode(
                    __name, __version, __payload,
                )?;
                #(#steps)*
                ::duractor::__private::Ok(__command)
            }
        }
    })
}
