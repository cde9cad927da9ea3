//! How replicas are divided among zones, racks or nodes: as evenly as possible within each shard, and
//! by weight over all of them. Pure.
//!
//! Each of these has a *size*: how many nodes are in it. A shard that wants three replicas in zones of
//! sizes 3, 3 and 1 gets one in each; of five, one is in the small zone and two are in each other one.
//! What is left over within a shard goes to some of the zones that have room: to which of them, the
//! hash of shard and zone decides, and no zone gets more than its share of all that is left over.

use std::cmp::Reverse;

use duractor_journal::ShardId;

/// One of those that something is divided among.
pub(super) struct Part {
    /// How much it carries beside the others.
    pub(super) weight: u64,
    /// How much it can take of one shard.
    pub(super) size: usize,
    /// How much it has already, of other shards.
    pub(super) given: usize,
}

/// What one shard wants, and how that is divided so far.
struct Row {
    shard: ShardId,
    counts: Vec<usize>,
    /// What is left over, and which parts have room for it.
    over: usize,
    open: Vec<bool>,
}

/// Divides what each shard wants among the parts. Returns the counts of each shard, in the same order.
pub(super) fn divide(
    wants: &[(ShardId, usize)],
    parts: &[Part],
    hash: impl Fn(ShardId, usize) -> u64,
) -> Vec<Vec<usize>> {
    let mut rows: Vec<Row> =
        wants.iter().map(|(shard, want)| level(*shard, *want, parts)).collect();
    let mut wanted = quotas(&rows, parts, &hash);
    // In how many shards each part can still get something.
    let mut left: Vec<i64> = (0..parts.len())
        .map(|n| rows.iter().filter(|row| row.over > 0 && row.open[n]).count() as i64)
        .collect();
    let alike = parts.windows(2).all(|pair| pair[0].weight == pair[1].weight);
    for row in rows.iter_mut().filter(|row| row.over > 0) {
        let score = |n: usize| {
            let hash = hash(row.shard, n);
            let score = if alike { 0 } else { distance(hash, parts[n].weight) };
            (score, Reverse(hash), n)
        };
        let mut ranked: Vec<usize> = (0..parts.len()).filter(|n| row.open[*n]).collect();
        // First those that must be in every shard that is left to get their share, then by hash those
        // that have not got theirs. There are enough of them where all shards want as much; else the
        // rest goes to those that are least above theirs.
        ranked.sort_by_cached_key(|n| {
            let above = if wanted[*n] > 0 { 0 } else { 1 - wanted[*n] };
            (above, wanted[*n] < left[*n], score(*n))
        });
        for n in ranked.iter().take(row.over) {
            row.counts[*n] += 1;
            wanted[*n] -= 1;
        }
        for n in ranked {
            left[n] -= 1;
        }
    }
    rows.into_iter().map(|row| row.counts).collect()
}

/// What every part gets of one shard, and what is left over.
fn level(shard: ShardId, want: usize, parts: &[Part]) -> Row {
    let upto = |level: usize| parts.iter().map(|part| part.size.min(level)).sum::<usize>();
    let most = parts.iter().map(|part| part.size).max().unwrap_or(0);
    let level = (0..=most).rev().find(|level| upto(*level) <= want).unwrap_or(0);
    Row {
        shard,
        counts: parts.iter().map(|part| part.size.min(level)).collect(),
        over: want.min(upto(most)) - upto(level),
        open: parts.iter().map(|part| part.size > level).collect(),
    }
}

/// How much of what is left over each part gets.
fn quotas(rows: &[Row], parts: &[Part], hash: &impl Fn(ShardId, usize) -> u64) -> Vec<i64> {
    let least: Vec<usize> = (0..parts.len())
        .map(|n| parts[n].given + rows.iter().map(|row| row.counts[n]).sum::<usize>())
        .collect();
    let most: Vec<usize> = (0..parts.len())
        .map(|n| least[n] + rows.iter().filter(|row| row.over > 0 && row.open[n]).count())
        .collect();
    let total = least.iter().sum::<usize>() + rows.iter().map(|row| row.over).sum::<usize>();
    let mut ranked: Vec<usize> = (0..parts.len()).collect();
    ranked.sort_by_key(|n| (Reverse(hash(ShardId(u16::MAX), *n)), *n));
    let weights: Vec<u64> = parts.iter().map(|part| part.weight.max(1)).collect();
    let shares = shares(total, &weights, &least, &most, &ranked);
    shares.iter().zip(&least).map(|(share, least)| *share as i64 - *least as i64).collect()
}

/// Divides a total by weight, each within its bounds: every share is its part of what is divided among
/// those that are within bounds, rounded up or down. `ranked` says who is rounded up first.
pub(super) fn shares(
    total: usize,
    weights: &[u64],
    least: &[usize],
    most: &[usize],
    ranked: &[usize],
) -> Vec<usize> {
    let mut fixed: Vec<Option<usize>> = vec![None; weights.len()];
    loop {
        let free: Vec<usize> = (0..weights.len()).filter(|n| fixed[*n].is_none()).collect();
        let taken: usize = fixed.iter().flatten().sum();
        let rest = total.saturating_sub(taken) as u128;
        let weight: u128 = free.iter().map(|n| u128::from(weights[*n])).sum();
        let above = |n: usize| most[n] as u128 * weight < rest * u128::from(weights[n]);
        let below = |n: usize| least[n] as u128 * weight > rest * u128::from(weights[n]);
        let by = |n: &usize, bound: usize| {
            (bound as u128 * weight).abs_diff(rest * u128::from(weights[*n]))
        };
        let too_much: u128 = free.iter().filter(|n| above(**n)).map(|n| by(n, most[*n])).sum();
        let too_little: u128 = free.iter().filter(|n| below(**n)).map(|n| by(n, least[*n])).sum();
        if too_much == 0 && too_little == 0 {
            return rounded(fixed, &free, rest, weight, weights, ranked);
        }
        // The side that is further off is the one that stays at its bound in the end.
        for n in free {
            if too_much >= too_little && above(n) {
                fixed[n] = Some(most[n]);
            } else if too_little >= too_much && below(n) {
                fixed[n] = Some(least[n]);
            }
        }
    }
}

fn rounded(
    fixed: Vec<Option<usize>>,
    free: &[usize],
    rest: u128,
    weight: u128,
    weights: &[u64],
    ranked: &[usize],
) -> Vec<usize> {
    let mut shares: Vec<usize> = fixed.iter().map(|share| share.unwrap_or(0)).collect();
    let mut up: Vec<usize> = ranked.iter().copied().filter(|n| free.contains(n)).collect();
    let exact = |n: usize| rest * u128::from(weights[n]);
    for n in free {
        shares[*n] = (exact(*n) / weight) as usize;
    }
    let given: usize = free.iter().map(|n| shares[*n]).sum();
    // Sorting keeps the rank of those that are alike.
    up.sort_by_key(|n| Reverse(exact(*n) % weight));
    for n in up.iter().take((rest as usize).saturating_sub(given)) {
        shares[*n] += 1;
    }
    shares
}

/// How far a shard is from a part: the less, the greater the hash and the weight. With it, each is the
/// nearest of as many shards as its weight says. In whole numbers: every node must find the same.
fn distance(hash: u64, weight: u64) -> u128 {
    (u128::from(minus_log2(hash)) << 32) / u128::from(weight.max(1))
}

/// `-log2(hash / 2^64)`, times 2^40.
fn minus_log2(hash: u64) -> u64 {
    const BITS: u32 = 40;
    let hash = hash.max(1);
    let zeros = hash.leading_zeros();
    // Between 1 and 2, times 2^63.
    let mut x = u128::from(hash << zeros);
    let mut log = 0_u64;
    for _ in 0..BITS {
        x = (x * x) >> 63;
        log <<= 1;
        if x >> 64 > 0 {
            x >>= 1;
            log += 1;
        }
    }
    (u64::from(zeros + 1) << BITS) - log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right() {
        for hash in [1, 2, 3, 1 << 20, u64::MAX / 3, u64::MAX / 2, 1 << 63, u64::MAX] {
            let exact = 64.0 - (hash as f64).log2();
            let found = minus_log2(hash) as f64 / (1_u64 << 40) as f64;
            assert!((found - exact).abs() < 1e-9, "{hash}: {found}, not {exact}");
        }
    }

    #[test]
    fn shares_keep_to_weights_and_bounds() {
        let ranked = [0, 1, 2];
        let of = |total, weights: [u64; 3], least: [usize; 3], most: [usize; 3]| {
            shares(total, &weights, &least, &most, &ranked)
        };
        assert_eq!(of(10, [1, 1, 1], [0; 3], [10; 3]), [4, 3, 3]);
        assert_eq!(of(12, [1, 2, 3], [0; 3], [12; 3]), [2, 4, 6]);
        assert_eq!(of(12, [1, 2, 3], [0; 3], [12, 12, 4]), [3, 5, 4]);
        assert_eq!(of(12, [1, 1, 1], [6, 0, 0], [12; 3]), [6, 3, 3]);
        assert_eq!(of(9, [100, 1, 1], [0; 3], [3; 3]), [3, 3, 3]);
    }
}
