use duractor::Event;

#[derive(Event)]
enum NoUpcast {
    #[event(version = 2)]
    Added,
}

#[derive(Event)]
enum Gap {
    #[event(name = "added", version = 4, upcast(1 = Old, 3 = Old))]
    Added,
}

#[derive(Event)]
enum Forgotten {
    #[event(upcast(1 = Old))]
    Added,
}

#[derive(Event)]
enum Listed {
    #[event(version = 3, upcast(1 = Old, 2 = Old, 1 = Old))]
    Added,
}

#[derive(Event)]
enum Zero {
    #[event(version = 0)]
    Added,
}

#[derive(Event)]
enum TooOld {
    #[event(version = 3, oldest = 2, upcast(1 = Old, 2 = Old))]
    Added,
    #[event(version = 3, oldest = 4)]
    Removed,
}

#[derive(Event)]
#[event(retired(name = "gone", 2 = Old))]
enum RetiredGap {}

fn main() {}
