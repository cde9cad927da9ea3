//! The derives of Duractor.

use proc_macro::TokenStream;

/// Derives `Event`.
#[proc_macro_derive(Event, attributes(event))]
pub fn event(_: TokenStream) -> TokenStream {
    TokenStream::new()
}

/// Derives `Command`.
#[proc_macro_derive(Command, attributes(command))]
pub fn command(_: TokenStream) -> TokenStream {
    TokenStream::new()
}

/// Derives `Payload`.
#[proc_macro_derive(Payload, attributes(event, command))]
pub fn payload(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
