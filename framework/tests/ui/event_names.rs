use duractor::{Event, Payload};

#[derive(Event)]
enum Twice {
    Added,
    #[event(name = "Added")]
    Summed,
}

#[derive(Event)]
#[event(retired(name = "Added", 1 = Old))]
enum StillRetired {
    Added,
}

#[derive(Payload)]
struct Old;

#[derive(Event)]
enum Empty {
    #[event(name = "")]
    Added,
}

#[derive(Event)]
struct FieldTwice {
    a: u8,
    #[event(rename = "a")]
    b: u8,
}

fn main() {}
