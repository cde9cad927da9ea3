//! A stored name with all its versions, checked: no gaps, nothing twice.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Error, LitInt, Result, Type, parse_quote_spanned, spanned::Spanned};

use crate::attrs::{Attrs, Old, Retired, check_name};

/// A name, its newest version, and the types of the versions before, oldest first.
pub(crate) struct History {
    pub(crate) name: String,
    pub(crate) name_span: Span,
    pub(crate) newest: u16,
    pub(crate) old: Vec<(u16, Type)>,
}

impl History {
    /// Of a variant or struct, which is its newest version itself.
    pub(crate) fn of(ident: &syn::Ident, attrs: &mut Attrs) -> Result<Self> {
        let (name, name_span) = match &attrs.name {
            Some(name) => (name.value(), name.span()),
            None => (syn::ext::IdentExt::unraw(ident).to_string(), ident.span()),
        };
        check_name(&name, name_span)?;
        let newest = value(attrs.version.as_ref());
        let span = attrs.version.as_ref().map_or(name_span, LitInt::span);
        let old = sort(attrs.upcast.take().unwrap_or_default())?;
        if let Some((_, literal, _)) = old.iter().find(|(version, ..)| *version >= newest) {
            let text = format!(
                "the current version is {newest}, and only older ones are upcast; to make a new \
                 version, write `version = {}`",
                u32::from(newest) + 1
            );
            return Err(Error::new(literal.span(), text));
        }
        let old = complete(&name, span, old, attrs.oldest.as_ref(), newest.into(), "upcast")?;
        Ok(Self { name, name_span, newest, old })
    }

    /// Of a retired name: all its versions are old ones.
    pub(crate) fn retired(retired: Retired) -> Result<Self> {
        let Retired { name: literal, oldest, old } = retired;
        let (name, name_span) = (literal.value(), literal.span());
        let old = sort(old)?;
        let newest = old.last().map_or(1, |(version, ..)| *version);
        let old =
            complete(&name, name_span, old, oldest.as_ref(), u32::from(newest) + 1, "retired")?;
        Ok(Self { name, name_span, newest, old })
    }

    /// The schema as a constant expression.
    pub(crate) fn schema(&self) -> TokenStream {
        let Self { name, newest, .. } = self;
        quote!(::duractor::Schema { name: #name, version: #newest })
    }

    /// The type of the old version at `at`, and those that lead from there to the newest, `Self`.
    /// `Self` is placed at the last of them, for the compiler to point there.
    pub(crate) fn chain(&self, at: usize) -> Vec<Type> {
        let mut chain: Vec<_> = self.old[at..].iter().map(|(_, ty)| ty.clone()).collect();
        if let Some(last) = chain.last() {
            chain.push(parse_quote_spanned!(last.span()=> Self));
        }
        chain
    }
}

fn value(literal: Option<&LitInt>) -> u16 {
    literal.and_then(|literal| literal.base10_parse().ok()).unwrap_or(1)
}

fn sort(old: Vec<Old>) -> Result<Vec<(u16, LitInt, Type)>> {
    let mut sorted: Vec<_> = old
        .into_iter()
        .map(|Old { version, payload }| (value(Some(&version)), version, payload))
        .collect();
    sorted.sort_by_key(|(version, ..)| *version);
    match sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Error::new(pair[1].1.span(), "this version is listed twice")),
        None => Ok(sorted),
    }
}

/// Checks that `old` is exactly the versions from `oldest` up to, not including, `end`; `key` is the
/// attribute that lists them.
fn complete(
    name: &str,
    span: Span,
    old: Vec<(u16, LitInt, Type)>,
    oldest: Option<&LitInt>,
    end: u32,
    key: &str,
) -> Result<Vec<(u16, Type)>> {
    let first = value(oldest);
    if let Some(oldest) = oldest.filter(|_| u32::from(first) > end) {
        return Err(Error::new(oldest.span(), format!("{name:?} has no version {first}")));
    }
    if let Some((_, literal, _)) = old.iter().find(|(version, ..)| *version < first) {
        let text =
            format!("`oldest = {first}` says that this version is stored nowhere; remove one");
        return Err(Error::new(literal.span(), text));
    }
    let listed = |version: &u32| old.iter().any(|(number, ..)| u32::from(*number) == *version);
    let missing: Vec<_> = (first.into()..end).filter(|version| !listed(version)).take(4).collect();
    if missing.is_empty() {
        return Ok(old.into_iter().map(|(version, _, payload)| (version, payload)).collect());
    }
    let versions: Vec<_> = missing.iter().map(|version| format!("`{version} = ...`")).collect();
    let text = format!(
        "{name:?} may be stored in an older version, and nothing says how to read that: add {} to \
         `{key}(...)`, each with the `#[derive(Payload)]` struct of its fields; or say with \
         `oldest = n` which version is the oldest that is still stored anywhere",
        versions.join(", ")
    );
    Err(Error::new(span, text))
}
