//! `#[derive(Payload)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Result};

use crate::{
    attrs::{Attrs, Place, refuse_generics},
    fields::Fields,
};

const PATHS: &[&str] = &["event", "command"];

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    refuse_generics(input, "the payload of an old version")?;
    let Data::Struct(data) = &input.data else {
        let text = "the payload of an old version is a struct with the fields that it had";
        return Err(Error::new(input.ident.span(), text));
    };
    Attrs::parse(&input.attrs, PATHS, Place::PayloadStruct)?;
    let ident = &input.ident;
    let value = Fields::parse(&data.fields, PATHS)?.decode(&quote!(Self));
    Ok(quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl ::duractor::Payload for #ident {
            fn decode(
                __name: &::duractor::__private::str,
                __version: ::duractor::__private::u16,
                __payload: &[::duractor::__private::u8],
            ) -> ::duractor::__private::Result<Self, ::duractor::CodecError> {
                ::duractor::__private::Ok({ #value })
            }
        }
    })
}
