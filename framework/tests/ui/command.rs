use duractor::Command;

#[derive(Command)]
struct NoAttribute {
    by: i64,
}

#[derive(Command)]
#[command(name = "add")]
struct NoReply {
    by: i64,
}

#[derive(Command)]
#[command(reply = (), retired(name = "x", 1 = Old))]
struct Retired;

#[derive(Command)]
#[command(reply = (), version = 2)]
struct NoUpcast;

fn main() {}
