//! `all`: every benchmark, one after the other.

use clap::Parser;

use crate::{
    cli::{All, Cli},
    perform,
    run::{Failure, Run},
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
    "append --nodes 3 --writers 1,64,256,1024",
    "replay --nodes 3",
    "failover",
    "handoff",
    "rebalance",
    "catchup",
    "idle",
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
    "append --nodes 3 --writers 1,64 --seconds 0.5",
    "replay --nodes 3 --events 100000 --seconds 2",
    "failover --trials 3 --graceful 2",
    "handoff --moves 8",
    "rebalance --events 2000 --callers 4 --entities 100 --seconds 0.5",
    "catchup --events 20000 --seconds 0.5",
    "idle --seconds 0.5",
];

pub(crate) async fn run(run: &Run, args: &All) -> Result<(), Failure> {
    for line in if args.quick { QUICK } else { FULL } {
        let words = std::iter::once("bench").chain(line.split(' '));
        // All benchmarks but this one: it is not in the lists.
        Box::pin(perform(run, &Cli::try_parse_from(words)?.benchmark)).await?;
    }
    Ok(())
}
