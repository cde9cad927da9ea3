use duractor::{Event, Payload};

#[derive(Event)]
#[event(name = "changed")]
enum OnEnum {
    Added,
}

#[derive(Event)]
enum OnVariant {
    #[event(rename = "added")]
    Added,
    #[event(retired(name = "x", 1 = Old))]
    Removed,
    #[event(versoin = 2)]
    Misspelt,
    #[event(version = 2, version = 2)]
    Twice,
}

#[derive(Event)]
struct OnField {
    #[event(name = "by")]
    amount: u8,
}

#[derive(Event)]
struct OnUnnamedField(#[event(rename = "by")] u8);

#[derive(Event)]
enum Lists {
    #[event(version = 2, upcast = Old)]
    NoParentheses,
    #[event(version = 2, upcast())]
    Empty,
    #[event(version = 2, upcast(Old))]
    NoVersion,
}

#[derive(Event)]
#[event(retired(name = "gone"))]
enum RetiredNothing {}

#[derive(Event)]
#[event(retired(nam = "gone", 1 = Old))]
enum RetiredMisspelt {}

#[derive(Payload)]
#[event(version = 1)]
struct PayloadV1 {
    by: u8,
}

fn main() {}
