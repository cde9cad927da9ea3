//! The stable order of fields, and the code that encodes and decodes them.

use std::collections::BTreeMap;

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Error, Ident, Member, Result, Type, ext::IdentExt, spanned::Spanned};

use crate::attrs::{Attrs, Place, check_name};

struct Field {
    member: Member,
    /// The variable that holds it in the generated code.
    variable: Ident,
    stable: String,
    ty: Type,
}

/// The fields of one version, in the order of storage: named ones by stable name, unnamed ones by
/// position.
pub(crate) struct Fields(Vec<Field>);

impl Fields {
    /// Orders `fields`, whose attributes are called one of `paths`.
    pub(crate) fn parse(fields: &syn::Fields, paths: &[&str]) -> Result<Self> {
        let mut ordered = fields
            .members()
            .zip(fields)
            .enumerate()
            .map(|(place, (member, field))| {
                let rename = Attrs::parse(&field.attrs, paths, Place::Field)?.rename;
                let (stable, span) = match (&member, &rename) {
                    (Member::Unnamed(_), Some(rename)) => {
                        let text = "a field without a name is stored by its position; remove this";
                        return Err(Error::new(rename.span(), text));
                    }
                    (Member::Named(_), Some(rename)) => (rename.value(), rename.span()),
                    (Member::Named(ident), None) => (ident.unraw().to_string(), ident.span()),
                    (Member::Unnamed(index), None) => (index.index.to_string(), field.span()),
                };
                check_name(&stable, span)?;
                let variable = format_ident!("__field_{place}");
                Ok((Field { member, variable, stable, ty: field.ty.clone() }, span))
            })
            .collect::<Result<Vec<_>>>()?;
        refuse_duplicates(&ordered)?;
        if matches!(fields, syn::Fields::Named(_)) {
            ordered.sort_by(|(a, _), (b, _)| a.stable.cmp(&b.stable));
        }
        Ok(Self(ordered.into_iter().map(|(field, _)| field).collect()))
    }

    /// A pattern that puts each field into its variable.
    pub(crate) fn pattern(&self, constructor: &TokenStream) -> TokenStream {
        self.construct(constructor)
    }

    /// Statements that end in `Ok(bytes)`, of the variables of [`pattern`](Self::pattern).
    pub(crate) fn encode(&self, name: &str) -> TokenStream {
        if self.0.is_empty() {
            return quote!(::duractor::__private::Ok(::duractor::__private::Bytes::new()));
        }
        let fields = self.0.iter().map(|Field { variable, stable, ty, .. }| {
            quote_spanned! {at(ty)=>
                ::duractor::__private::Encoder::field::<#ty>(&mut __out, #stable, #variable)?;
            }
        });
        quote! {
            let mut __out = ::duractor::__private::Encoder::new(#name);
            #(#fields)*
            ::duractor::__private::Ok(__out.finish())
        }
    }

    /// Statements that end in the decoded value, of `__name`, `__version` and `__payload`.
    pub(crate) fn decode(&self, constructor: &TokenStream) -> TokenStream {
        let mutable = (!self.0.is_empty()).then(|| quote!(mut));
        let fields = self.0.iter().map(|Field { variable, stable, ty, .. }| {
            quote_spanned! {at(ty)=>
                let #variable = ::duractor::__private::Decoder::field::<#ty>(&mut __in, #stable)?;
            }
        });
        let value = self.construct(constructor);
        quote! {
            let #mutable __in =
                ::duractor::__private::Decoder::new(__name, __version, __payload);
            #(#fields)*
            __in.finish()?;
            #value
        }
    }

    /// `Type { by: __field_0, 1: __field_1 }`: braces fit variants and structs of every shape.
    fn construct(&self, constructor: &TokenStream) -> TokenStream {
        let fields = self.0.iter().map(|Field { member, variable, .. }| quote!(#member: #variable));
        quote!(#constructor { #(#fields),* })
    }
}

/// The place of `ty` in source, so that the compiler points there where it cannot be stored.
fn at(ty: &Type) -> Span {
    ty.span().resolved_at(Span::call_site())
}

fn refuse_duplicates(fields: &[(Field, Span)]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for (field, span) in fields {
        if seen.insert(&field.stable, ()).is_some() {
            let text = format!("another field is already stored as {:?}", field.stable);
            return Err(Error::new(*span, text));
        }
    }
    Ok(())
}
