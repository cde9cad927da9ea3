//! Pages that list what is in the code list all of it, and nothing else.

use std::collections::BTreeSet;

use duractor_testkit::{cluster, consistency, nodes};

const PAGE: &str = include_str!("../../docs/how-tested.md");

/// The cells of each row of the first table under a heading, without the row that names the columns.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let lines = PAGE.lines().skip_while(|line| *line != heading);
    let lines = lines.skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim().trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// Every bug by its name and a scenario that finds it, as on the command line.
fn bugs() -> BTreeSet<(&'static str, &'static str)> {
    let mut bugs = BTreeSet::new();
    for bug in consistency::Planted::ALL {
        bugs.extend(bug.found_by().iter().map(|scenario| (bug.name(), scenario.name())));
    }
    bugs.extend(cluster::Planted::ALL.map(|bug| (bug.name(), "journal")));
    bugs.extend(nodes::Planted::ALL.map(|bug| (bug.name(), "cluster")));
    bugs
}

fn catalogue() -> Vec<(&'static str, &'static str)> {
    let name = |cell: &'static str| cell.trim_matches('`');
    table("## Planted bugs").iter().map(|row| (name(row[0]), row[1])).collect()
}

#[test]
fn the_catalogue_names_exactly_the_planted_bugs() {
    let mut listed: Vec<_> = catalogue().into_iter().map(|(name, _)| name).collect();
    listed.sort_unstable();
    let known: BTreeSet<_> = bugs().into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, known.into_iter().collect::<Vec<_>>(), "docs/how-tested.md");
}

#[test]
fn the_catalogue_names_the_scenarios_that_find_them() {
    let listed: BTreeSet<_> = catalogue()
        .into_iter()
        .flat_map(|(name, scenarios)| scenarios.split(", ").map(move |scenario| (name, scenario)))
        .collect();
    assert_eq!(listed, bugs(), "docs/how-tested.md");
}
