//! `all`: every benchmark, one after the other.

use clap::Parser;

use crate::{
    append, ask,
    cli::{All, Benchmark, Cli},
    open, recover, replay,
    run::{Failure, Run},
    soak, spawn,
};

/// As they would be given on the command line.
const FULL: &[&str] = &[
    "append",
    "append --target entity",
    "append --target entity --entities 1 --writers 256",
    "ask",
    "replay",
    "recover",
    "spawn",
    "open --events 100000,1000000,10000000",
    "soak --seconds 300",
];

const QUICK: &[&str] = &[
    "append --writers 1,64,1024 --seconds 0.5",
    "append --target entity --writers 1,64,1024 --seconds 0.5",
    "append --target entity --entities 1 --writers 256 --seconds 0.5",
    "ask --seconds 0.5",
    "replay --events 100000 --seconds 2",
    "recover --entities 5000",
    "spawn --entities 5000",
    "open --events 100000",
    "soak --seconds 5",
];

pub(crate) async fn run(run: &Run, args: &All) -> Result<(), Failure> {
    for line in if args.quick { QUICK } else { FULL } {
        let words = std::iter::once("bench").chain(line.split(' '));
        match Cli::try_parse_from(words)?.benchmark {
            Benchmark::Append(args) => append::run(run, &args).await?,
            Benchmark::Ask(args) => ask::run(run, &args).await?,
            Benchmark::Replay(args) => replay::run(run, &args).await?,
            Benchmark::Recover(args) => recover::run(run, &args).await?,
            Benchmark::Spawn(args) => spawn::run(run, &args).await?,
            Benchmark::Open(args) => open::run(run, &args).await?,
            Benchmark::Soak(args) => soak::run(run, &args).await?,
            Benchmark::All(_) | Benchmark::Child(_) => {}
        }
    }
    Ok(())
}
