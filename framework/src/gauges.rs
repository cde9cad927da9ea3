//! What a node counts, for whatever recorder of the `metrics` crate the application has installed.
//!
//! Told once in a while and at the end, not as it happens: commands pay nothing for it.

use metrics::{Label, counter, gauge};

use crate::shared::{AnyKind, Shared};

/// Tells the recorder where things stand.
pub(crate) fn publish<'a>(shared: &Shared, kinds: impl Iterator<Item = &'a dyn AnyKind>) {
    let node = shared.router.as_ref().map(|router| Label::new("node", router.me().to_string()));
    let labels: Vec<Label> = node.into_iter().collect();
    let counts = shared.ledger.counts();
    counter!("duractor_commands_accepted_total", labels.clone()).absolute(counts.accepted);
    counter!("duractor_commands_replied_total", labels.clone()).absolute(counts.replied);
    counter!("duractor_commands_rejected_total", labels.clone()).absolute(counts.rejected);
    counter!("duractor_commands_dead_lettered_total", labels.clone())
        .absolute(counts.dead_lettered);
    gauge!("duractor_commands_open", labels.clone()).set(counts.open() as f64);
    for kind in kinds {
        let mut labels = labels.clone();
        labels.push(Label::new("kind", kind.name()));
        gauge!("duractor_entities_active", labels).set(kind.active() as f64);
    }
}
