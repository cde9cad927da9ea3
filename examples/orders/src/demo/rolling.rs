//! A rolling restart while clients send requests: each node in turn is told to stop (SIGTERM), hands over
//! what it leads, ends, and is started again as the next version. Clients do what any client can: they send
//! to any node, and to the next one where nobody listens or the answer is 503. No request may take
//! longer than a deadline with all that, and none may be cut off.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    check::Found,
    client::{Client, Endured},
    load::Work,
    nodes::Nodes,
};

/// What the nodes say they are before it, and after.
pub(super) const OLD: &str = "1.0.0";
pub(super) const NEW: &str = "2.0.0";
/// Clients go on so long before the first restart, between two, and after the last.
const BETWEEN: Duration = Duration::from_millis(1000);
/// A request that takes longer has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// Each client rests so long after an order: they have to last until the nodes are through.
pub(super) const REST: Duration = Duration::from_millis(50);

/// Restarts each node, and then ends the work.
pub(super) async fn restart_all(work: &Work, nodes: &mut Nodes) -> Result<(), String> {
    let count = nodes.count();
    sleep(BETWEEN).await;
    for number in 1..=count {
        let begun = Instant::now();
        nodes.terminate(number).await?;
        let stopped = begun.elapsed();
        nodes.restart(number, NEW).await?;
        nodes.wait_equal_so_far().await?;
        let is = |other| if other <= number { NEW } else { OLD };
        let versions: Vec<_> = (1..=count).map(is).collect();
        nodes.wait_versions(&versions).await?;
        println!(
            "  node {number} stopped on SIGTERM after {} ms, and has caught up after {} ms; versions {}",
            stopped.as_millis(),
            (begun.elapsed() - stopped).as_millis(),
            versions.join(", ")
        );
        sleep(BETWEEN).await;
    }
    work.stop();
    Ok(())
}

/// Says what the clients endured, and what of it no client should have to.
pub(super) fn judge(client: &Client, found: &mut Found) {
    let Endured { refused, busy, cut, example, late, worst_ms } = client.endured();
    let failed = cut + late;
    println!(
        "  {failed} requests failed; tried again: {refused} where nobody listened, {busy} answered with \
         503; the slowest took {worst_ms} ms"
    );
    if failed > 0 {
        found.wrong(format!("{cut} requests were cut off, {late} took longer than {DEADLINE:?}"));
        example.into_iter().for_each(|example| found.wrong(example));
    }
}
