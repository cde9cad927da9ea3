use duractor::{Command, Event, Payload};

#[derive(Event)]
enum Generic<T> {
    Added(T),
}

#[derive(Event)]
struct Borrowed<'a>(&'a str);

#[derive(Event)]
union Either {
    a: u8,
    b: i8,
}

#[derive(Command)]
#[command(reply = ())]
struct GenericCommand<T>(T);

#[derive(Command)]
#[command(reply = ())]
enum Commands {
    Add,
    Get,
}

#[derive(Payload)]
enum PayloadV1 {
    Added,
}

fn main() {}
