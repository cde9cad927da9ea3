//! The derives of Duractor: stable names and versions for events and commands.
//!
//! Use them through the `duractor` crate, whose traits of the same names describe what they take.
//! What they generate refers to `::duractor`.
//!
//! Read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | `attrs` | what stands in `#[event(...)]` and `#[command(...)]` |
//! | `history` | a name with all its versions, checked for gaps |
//! | `fields` | the stable order of fields, and the code that encodes and decodes them |
//! | `event`, `command`, `payload` | one derive each |

mod attrs;
mod command;
mod event;
mod fields;
mod history;
mod payload;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Derives `duractor::Event` for an enum, each variant an event, or for a struct, one event.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input), event::derive)
}

/// Derives `duractor::Command` for a struct; its reply type must be given.
#[proc_macro_derive(Command, attributes(command))]
pub fn derive_command(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input), command::derive)
}

/// Derives `duractor::Payload` for a struct: the fields of an old version of an event or command.
#[proc_macro_derive(Payload, attributes(event, command))]
pub fn derive_payload(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input), payload::derive)
}

fn expand(
    input: DeriveInput,
    derive: fn(&DeriveInput) -> syn::Result<proc_macro2::TokenStream>,
) -> TokenStream {
    derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
