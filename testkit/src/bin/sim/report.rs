//! What is said of a long run: on one line while it goes on, in a table, and as a page.

use std::{collections::BTreeSet, fmt::Write, time::Duration};

use crate::{
    hours::{Tallies, Tally},
    what::What,
};

/// How far it is, on one line.
pub(crate) fn line(tallies: &Tallies) -> String {
    let each = tallies
        .iter()
        .map(|(what, tally)| format!("{} {} ({:.0}/s)", what.name(), tally.seeds, tally.rate()));
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(|(_, tally)| of(tally)).sum::<u64>();
    let faults = sum(|tally| tally.faults.values().sum());
    let violations = sum(|tally| tally.violations.len() as u64);
    let each = each.collect::<Vec<_>>().join(", ");
    format!("{each}; {} acknowledged, {faults} faults, {violations} violations", sum(|t| t.acked))
}

/// A scenario, as a row of the table.
pub(crate) fn row(what: What, tally: &Tally) -> String {
    let Tally { seeds, acked, checked, violations, .. } = tally;
    let rate = tally.rate();
    let (name, found) = (what.name(), violations.len());
    let mut row =
        format!("{name:<10}{:<20}{seeds:>8}{rate:>10.0}{found:>12}{acked:>10}{checked:>12}", "-");
    for (seed, text) in violations {
        let text = text.lines().next().unwrap_or_default();
        let _ = write!(row, "\n  {text}\n  replay: sim --replay {name}:{seed}");
    }
    row
}

/// A page for people.
pub(crate) fn page(tallies: &Tallies, took: Duration, processes: usize) -> String {
    let mut page = String::from("# A run of the simulation\n\n");
    let violations: usize = tallies.iter().map(|(_, tally)| tally.violations.len()).sum();
    let minutes = took.as_secs_f64() / 60.0;
    // A String takes everything.
    let _ = writeln!(
        page,
        "{minutes:.0} minutes in {processes} processes at a time, by version {}: **{violations} violations**.\n",
        env!("CARGO_PKG_VERSION")
    );
    page.push_str(
        "| scenario | seeds | seeds/s of one process | acknowledged | checked | violations |\n",
    );
    page.push_str("|---|---:|---:|---:|---:|---:|\n");
    for (what, tally) in tallies {
        let rate = tally.rate();
        let Tally { seeds, acked, checked, violations, .. } = tally;
        let (name, found) = (what.name(), violations.len());
        let _ = writeln!(page, "| {name} | {seeds} | {rate:.1} | {acked} | {checked} | {found} |");
    }
    matrix(&mut page, tallies, "Faults that struck", |tally| &tally.faults);
    matrix(&mut page, tallies, "What happened, and was done", |tally| &tally.counts);
    if violations > 0 {
        page.push_str("\n## Violations\n\n");
    }
    for (what, tally) in tallies {
        for (seed, text) in &tally.violations {
            let name = what.name();
            let _ = writeln!(page, "- `sim --replay {name}:{seed}`: {text}");
        }
    }
    page
}

/// How often each thing was in each scenario. An empty field says that it never was.
fn matrix(
    page: &mut String,
    tallies: &Tallies,
    title: &str,
    of: impl Fn(&Tally) -> &std::collections::BTreeMap<String, u64>,
) {
    let kinds: BTreeSet<_> = tallies.iter().flat_map(|(_, tally)| of(tally).keys()).collect();
    if kinds.is_empty() {
        return;
    }
    let names: Vec<_> = tallies.iter().map(|(what, _)| what.name()).collect();
    let _ = writeln!(page, "\n## {title}\n\n| | {} |", names.join(" | "));
    let _ = writeln!(page, "|---|{}", "---:|".repeat(names.len()));
    for kind in kinds {
        let counts = tallies.iter().map(|(_, tally)| match of(tally).get(kind) {
            Some(count) => count.to_string(),
            None => String::new(),
        });
        let _ = writeln!(page, "| {kind} | {} |", counts.collect::<Vec<_>>().join(" | "));
    }
}
