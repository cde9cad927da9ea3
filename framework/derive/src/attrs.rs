//! What stands in `#[event(...)]` and `#[command(...)]`: parsed, and refused where it does not
//! belong.

use proc_macro2::Span;
use syn::{
    Attribute, DeriveInput, GenericParam, LitInt, LitStr, Result, Token, Type,
    meta::ParseNestedMeta, parse::ParseStream,
};

/// Where an attribute stands: it decides which keys are allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    EventEnum,
    EventVariant,
    EventStruct,
    CommandStruct,
    PayloadStruct,
    Field,
}

impl Place {
    fn keys(self) -> &'static [&'static str] {
        match self {
            Place::EventEnum => &["retired"],
            Place::EventVariant => &["name", "version", "upcast", "oldest"],
            Place::EventStruct => &["name", "version", "upcast", "oldest", "retired"],
            Place::CommandStruct => &["reply", "name", "version", "upcast", "oldest"],
            Place::PayloadStruct => &[],
            Place::Field => &["rename"],
        }
    }

    fn text(self) -> &'static str {
        match self {
            Place::EventEnum => "an event enum",
            Place::EventVariant => "a variant",
            Place::EventStruct => "an event struct",
            Place::CommandStruct => "a command",
            Place::PayloadStruct => "the payload of an old version",
            Place::Field => "a field",
        }
    }

    /// Where the key should stand, or what to write instead.
    fn advice(self, key: &str) -> String {
        match (self, key) {
            (Place::EventEnum, "name" | "version" | "upcast" | "oldest") => {
                "write it on each variant: every variant has a name and version of its own".into()
            }
            (Place::EventVariant, "retired") => "write it on the enum".into(),
            (Place::Field, "name") => {
                "to keep a field's stored name, write `rename = \"...\"`".into()
            }
            (Place::PayloadStruct, _) => {
                "names and versions stand on the event or command that lists it in `upcast`".into()
            }
            (_, "rename") => "to keep the stored name, write `name = \"...\"`".into(),
            _ => {
                let keys: Vec<_> = self.keys().iter().map(|key| format!("`{key}`")).collect();
                format!("what can stand here: {}", keys.join(", "))
            }
        }
    }
}

/// An old version and the type that its payload is decoded as.
pub(crate) struct Old {
    pub(crate) version: LitInt,
    pub(crate) payload: Type,
}

/// A name that is still decoded and no longer written.
pub(crate) struct Retired {
    pub(crate) name: LitStr,
    pub(crate) oldest: Option<LitInt>,
    pub(crate) old: Vec<Old>,
}

/// All that stands on one item.
#[derive(Default)]
pub(crate) struct Attrs {
    pub(crate) name: Option<LitStr>,
    pub(crate) rename: Option<LitStr>,
    pub(crate) version: Option<LitInt>,
    pub(crate) oldest: Option<LitInt>,
    pub(crate) upcast: Option<Vec<Old>>,
    pub(crate) retired: Vec<Retired>,
    pub(crate) reply: Option<Type>,
}

impl Attrs {
    /// Reads the attributes called one of `paths`.
    pub(crate) fn parse(attrs: &[Attribute], paths: &[&str], place: Place) -> Result<Self> {
        let mut found = Self::default();
        for attr in attrs.iter().filter(|attr| paths.iter().any(|path| attr.path().is_ident(path)))
        {
            attr.parse_nested_meta(|meta| found.key(&meta, place))?;
        }
        Ok(found)
    }

    fn key(&mut self, meta: &ParseNestedMeta<'_>, place: Place) -> Result<()> {
        let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        if !place.keys().contains(&key.as_str()) {
            let (place_text, advice) = (place.text(), place.advice(&key));
            return Err(meta.error(format!("`{key}` does not belong on {place_text}; {advice}")));
        }
        match key.as_str() {
            "name" => once(&mut self.name, meta, |meta| text(meta.value()?)),
            "rename" => once(&mut self.rename, meta, |meta| text(meta.value()?)),
            "version" => once(&mut self.version, meta, |meta| number(meta.value()?)),
            "oldest" => once(&mut self.oldest, meta, |meta| number(meta.value()?)),
            "reply" => once(&mut self.reply, meta, |meta| meta.value()?.parse()),
            "upcast" => once(&mut self.upcast, meta, |meta| {
                let mut old = Vec::new();
                parse_list(meta, "`1 = PlacedV1`", |input| {
                    old.push(parse_old(input)?);
                    Ok(())
                })?;
                Ok(old)
            }),
            _ => {
                self.retired.push(parse_retired(meta)?);
                Ok(())
            }
        }
    }
}

fn once<T>(
    slot: &mut Option<T>,
    meta: &ParseNestedMeta<'_>,
    parse: impl FnOnce(&ParseNestedMeta<'_>) -> Result<T>,
) -> Result<()> {
    if slot.is_some() {
        return Err(meta.error("this is given twice; remove one of them"));
    }
    *slot = Some(parse(meta)?);
    Ok(())
}

fn text(input: ParseStream<'_>) -> Result<LitStr> {
    let text: LitStr = input.parse()?;
    check_name(&text.value(), text.span())?;
    Ok(text)
}

/// The journal's limit of a name, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Refuses a name that the journal would refuse.
pub(crate) fn check_name(name: &str, span: Span) -> Result<()> {
    match name.len() {
        0 => Err(syn::Error::new(span, "a name must not be empty")),
        1..=MAX_NAME_BYTES => Ok(()),
        bytes => Err(syn::Error::new(
            span,
            format!("this name has {bytes} bytes, and at most {MAX_NAME_BYTES} are allowed"),
        )),
    }
}

fn number(input: ParseStream<'_>) -> Result<LitInt> {
    let number: LitInt = input.parse()?;
    if matches!(number.base10_parse::<u16>(), Ok(1..)) && number.suffix().is_empty() {
        return Ok(number);
    }
    Err(syn::Error::new(number.span(), "a version is a number from 1 to 65535"))
}

/// `(item, item, ...)`, with a hint at what an item is.
fn parse_list(
    meta: &ParseNestedMeta<'_>,
    example: &str,
    mut item: impl FnMut(ParseStream<'_>) -> Result<()>,
) -> Result<()> {
    if !meta.input.peek(syn::token::Paren) {
        return Err(meta.error(format!("put what belongs here in parentheses: {example}")));
    }
    let content;
    syn::parenthesized!(content in meta.input);
    if content.is_empty() {
        return Err(meta.error(format!("this is empty; write {example}, or remove it")));
    }
    while !content.is_empty() {
        item(&content)?;
        if !content.is_empty() {
            content.parse::<Token![,]>()?;
        }
    }
    Ok(())
}

fn parse_old(input: ParseStream<'_>) -> Result<Old> {
    if !input.peek(LitInt) {
        return Err(input.error("write an old version and its type, as in `1 = PlacedV1`"));
    }
    let version = number(input)?;
    input.parse::<Token![=]>()?;
    Ok(Old { version, payload: input.parse()? })
}

fn parse_retired(meta: &ParseNestedMeta<'_>) -> Result<Retired> {
    const EXAMPLE: &str = "`retired(name = \"placed\", 1 = PlacedV1)`";
    let (mut name, mut oldest, mut old) = (None, None, Vec::new());
    parse_list(meta, EXAMPLE, |input| {
        if input.peek(LitInt) {
            old.push(parse_old(input)?);
            return Ok(());
        }
        let key: syn::Ident = input.parse()?;
        input.parse::<Token![=]>()?;
        match key.to_string().as_str() {
            "name" if name.is_none() => name = Some(text(input)?),
            "oldest" if oldest.is_none() => oldest = Some(number(input)?),
            _ => return Err(syn::Error::new(key.span(), format!("write {EXAMPLE}"))),
        }
        Ok(())
    })?;
    match name {
        Some(name) if !old.is_empty() => Ok(Retired { name, oldest, old }),
        _ => Err(meta.error(format!("a retired name needs its versions: write {EXAMPLE}"))),
    }
}

/// A stored name stands for one layout of bytes, so a type parameter would make it ambiguous.
pub(crate) fn refuse_generics(input: &DeriveInput, what: &str) -> Result<()> {
    let text = match input.generics.params.first() {
        None => return Ok(()),
        Some(GenericParam::Lifetime(_)) => {
            format!("{what} must own its fields: replace references, as `&'a str` by `String`")
        }
        Some(_) => format!(
            "{what} cannot be generic: its stored name must stand for one layout of bytes; write \
             one type for each type that you need"
        ),
    };
    Err(syn::Error::new_spanned(&input.generics, text))
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    /// A record of the journal holds no longer name, so the compiler should say it first.
    #[test]
    fn a_name_fits_into_a_record() {
        let parse = |name: String| {
            Attrs::parse(&[parse_quote!(#[event(name = #name)])], &["event"], Place::EventVariant)
        };
        assert!(parse("x".repeat(255)).is_ok());
        let error = parse("x".repeat(256)).err().expect("too long").to_string();
        assert_eq!(error, "this name has 256 bytes, and at most 255 are allowed");
    }
}
