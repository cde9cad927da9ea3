use std::collections::{BTreeMap, HashMap};

use super::*;

#[derive(serde::Serialize)]
struct Sample {
    total: i64,
    lines: Vec<(u8, Option<f64>)>,
    by_name: BTreeMap<String, Kind>,
}

#[derive(serde::Serialize)]
enum Kind {
    Plain,
    Deep { depth: u8 },
}

fn sample() -> Sample {
    let by_name = [("a".into(), Kind::Plain), ("b".into(), Kind::Deep { depth: 3 })].into();
    Sample { total: -1, lines: vec![(1, None), (2, Some(0.5))], by_name }
}

fn differ(change: impl FnOnce(&mut Sample)) -> Option<String> {
    let mut other = sample();
    change(&mut other);
    let tree = |sample| Tree::of(sample).expect("a tree");
    difference(["live", "replayed"], &tree(&sample()), &tree(&other))
}

#[test]
fn the_first_difference_is_told_by_its_path() {
    assert_eq!(differ(|_| {}), None);
    assert_eq!(
        Tree::of(&sample()).expect("a tree").to_string(),
        "{total: -1, lines: [[1, None], [2, Some(0.5)]], by_name: {\"a\": Plain, \"b\": \
         Deep({depth: 3})}}"
    );
    let told = |text: &str| Some(text.to_owned());
    assert_eq!(differ(|s| s.total = 4), told("`.total`: live -1, replayed 4"));
    assert_eq!(
        differ(|s| s.lines[1].1 = Some(-0.0)),
        told("`.lines[1][1]`: live 0.5, replayed -0.0")
    );
    assert_eq!(
        differ(|s| s.by_name.extend([("b".into(), Kind::Deep { depth: 4 })])),
        told("`.by_name[\"b\"].depth`: live 3, replayed 4")
    );
    assert_eq!(
        differ(|s| s.lines.truncate(1)),
        told("`.lines`: live [[1, None], [2, Some(0.5)]], replayed [[1, None]]")
    );
    let swapped = differ(|s| s.lines.swap(0, 1)).expect("another order");
    assert!(swapped.contains("Is it a `HashSet`?"), "{swapped}");
}

#[test]
fn the_order_of_a_map_is_of_no_account() {
    let numbers = || (0..100).map(|n| (n, n)).collect::<HashMap<u32, u32>>();
    assert_eq!(Tree::of(&numbers()), Tree::of(&numbers()));
}
