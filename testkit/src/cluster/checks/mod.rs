//! Whether a run kept the invariants: pure functions of its history and of what the replicas hold
//! in the end.
//!
//! | check | invariant |
//! |---|---|
//! | [`replicas_are_equal`] | **C**: the same records, positions and heads everywhere |
//! | [`nothing_is_lost`] | **A**: what was acknowledged is there, once, in its place; what was refused is not; nothing is deleted that nobody deleted |
//! | [`epochs_do_not_mix`] | **W**: epochs grow along the shard, and none commits after a newer claim was granted |
//! | [`calls_fit_an_order`] | **L**: the order of calls in time is the order in the journal |
//!
//! The journal has an order itself, so linearizability needs no search: every call has a place in its
//! entity's stream, and a call that ended before another began must have the earlier place.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use duractor_journal::{Seq, ShardId, Term};

use super::history::{History, Outcome, Replica};

/// What a check found.
pub type Found = Result<(), String>;

/// All checks of one shard. `replicas` has at least one.
///
/// # Errors
/// The first violation.
pub fn shard(history: &History, shard: ShardId, replicas: &[Replica]) -> Found {
    replicas_are_equal(replicas)?;
    let Some(end) = replicas.first() else { return Err("no replica is left".into()) };
    nothing_is_lost(history, shard, end)?;
    epochs_do_not_mix(history, shard, end)?;
    calls_fit_an_order(history, shard, end)
}

/// **C**. Events below a deletion may be gone from one replica and not yet from another.
///
/// # Errors
/// The first difference.
pub fn replicas_are_equal(replicas: &[Replica]) -> Found {
    let Some((first, others)) = replicas.split_first() else { return Ok(()) };
    for other in others {
        let names = format!("C: {} and {}", first.name, other.name);
        if first.heads != other.heads {
            return Err(format!("{names}: heads {:?} and {:?}", first.heads, other.heads));
        }
        let (left, right) = (retained(first), retained(other));
        for (a, b) in left.iter().zip(&right) {
            if a != b {
                return Err(format!("{names}: {a:?} and {b:?}"));
            }
        }
        if left.len() != right.len() {
            return Err(format!("{names}: {} records and {}", left.len(), right.len()));
        }
    }
    Ok(())
}

type Record = (usize, Seq, super::history::Seen);

fn retained(replica: &Replica) -> Vec<&Record> {
    let deleted: BTreeMap<usize, Seq> = replica.heads.iter().map(|(e, _, to)| (*e, *to)).collect();
    let kept = |(entity, seq, _): &&Record| deleted.get(entity).is_none_or(|to| seq > to);
    replica.records.iter().filter(kept).collect()
}

/// **A**.
///
/// # Errors
/// What was lost, doubled, changed or made up.
pub fn nothing_is_lost(history: &History, shard: ShardId, end: &Replica) -> Found {
    let mut there: BTreeMap<(usize, Seq), &super::history::Seen> = BTreeMap::new();
    let mut places: BTreeMap<(usize, u32), Seq> = BTreeMap::new();
    for (entity, seq, seen) in &end.records {
        if there.insert((*entity, *seq), seen).is_some() {
            return Err(format!("A: {} {seq} is there twice", history.entities[*entity]));
        }
        if let Some(other) = places.insert((seen.request, seen.part), *seq) {
            return Err(format!(
                "A: request {} took effect twice: {} at {other} and {seq}",
                seen.request, history.entities[*entity]
            ));
        }
        if let Some(known) = history.seen.get(&(*entity, *seq))
            && known != seen
        {
            let id = &history.entities[*entity];
            return Err(format!("A: {id} {seq} was {known:?}, and is {seen:?}"));
        }
    }
    for (entity, last, deleted) in &end.heads {
        heads_fit(history, &there, (*entity, *last, *deleted))?;
    }
    requests_fit(history, shard, end, &places)
}

fn heads_fit(
    history: &History,
    there: &BTreeMap<(usize, Seq), &super::history::Seen>,
    (entity, last, deleted): (usize, Seq, Seq),
) -> Found {
    let id = &history.entities[entity];
    let wishes = || history.deletions.iter().filter(move |d| d.entity == entity);
    let wished = wishes().filter(|d| !d.refused).map(|d| d.to).max().unwrap_or_default();
    let acked = wishes().filter(|d| d.acked.is_some()).map(|d| d.to).max().unwrap_or_default();
    if deleted > wished || deleted < acked {
        return Err(format!(
            "A: {id} is deleted to {deleted}, when {acked} was acknowledged and {wished} asked for"
        ));
    }
    let missing = (deleted.0 + 1..=last.0).find(|n| !there.contains_key(&(entity, Seq(*n))));
    if let Some(missing) = missing {
        return Err(format!("A: {id} {missing} is missing, of {last} and deleted to {deleted}"));
    }
    match there.range((entity, last.next())..=(entity, Seq::MAX)).next() {
        Some(((_, seq), _)) => Err(format!("A: {id} has {seq}, and its head is {last}")),
        None => Ok(()),
    }
}

fn requests_fit(
    history: &History,
    shard: ShardId,
    end: &Replica,
    places: &BTreeMap<(usize, u32), Seq>,
) -> Found {
    let deleted: BTreeMap<usize, Seq> = end.heads.iter().map(|(e, _, to)| (*e, *to)).collect();
    for (number, request) in history.requests.iter().enumerate() {
        if history.shard(request.entity) != shard {
            continue;
        }
        let id = &history.entities[request.entity];
        let found: Vec<_> =
            (0..request.events).map(|part| places.get(&(number, part)).copied()).collect();
        if let (Some((_, last, position)), false) = (request.acked, request.lossy) {
            let first = (last.0 + 1).saturating_sub(u64::from(request.events));
            for (seq, place) in (first..).map(Seq).zip(&found) {
                let gone = deleted.get(&request.entity).is_some_and(|to| seq <= *to);
                if *place != Some(seq) && !(gone && place.is_none()) {
                    return Err(format!(
                        "A: request {number} was acknowledged as {id} {seq}, and is at {place:?}"
                    ));
                }
            }
            let here = end.records.iter().find(|(e, s, _)| (*e, *s) == (request.entity, last));
            if let Some((_, _, seen)) = here
                && seen.position != position
            {
                return Err(format!(
                    "A: request {number} was acknowledged at {position}, and is at {}",
                    seen.position
                ));
            }
        }
        let refused = |answer: Option<(_, Outcome)>| {
            answer.is_some_and(|(_, outcome)| outcome == Outcome::Refused)
        };
        if request.attempts.iter().all(|attempt| refused(attempt.answer))
            && found.iter().any(Option::is_some)
        {
            return Err(format!("A: request {number} of {id} was refused, and is at {found:?}"));
        }
        // A request's events are written together or not at all. Deleted ones may be gone already.
        let kept: Vec<_> = found.iter().skip_while(|place| place.is_none()).collect();
        let torn = kept.iter().any(|place| place.is_none())
            || kept.windows(2).any(|w| w[0].map(Seq::next) != *w[1])
            || (kept.len() < found.len() && !kept.is_empty() && {
                let before = kept[0].unwrap_or_default().0 - 1;
                deleted.get(&request.entity).is_none_or(|to| to.0 < before)
            });
        if torn {
            return Err(format!("A: request {number} of {id} is in pieces: {found:?}"));
        }
    }
    Ok(())
}

/// **W**.
///
/// # Errors
/// The epochs that mix.
pub fn epochs_do_not_mix(history: &History, shard: ShardId, end: &Replica) -> Found {
    let mut newest = Term(0);
    for (entity, seq, seen) in &end.records {
        if seen.epoch < newest {
            return Err(format!(
                "W: {} {seq} was written under {} after {newest}",
                history.entities[*entity], seen.epoch
            ));
        }
        newest = seen.epoch;
        let request = &history.requests[seen.request];
        let tries = request.attempts.iter().filter(|a| a.epoch == seen.epoch);
        let Some(first) = tries.map(|attempt| attempt.start).min() else {
            return Err(format!("W: nobody sent request {} under {}", seen.request, seen.epoch));
        };
        let newer = history.claims.iter().find(|claim| {
            let later = |(end, term): (u64, Term)| end < first && term > seen.epoch;
            claim.shard == shard && claim.granted.is_some_and(later)
        });
        if let Some(claim) = newer {
            return Err(format!(
                "W: request {} was sent under {} after {claim:?}, and committed",
                seen.request, seen.epoch
            ));
        }
    }
    claims_grow(history, shard)
}

fn claims_grow(history: &History, shard: ShardId) -> Found {
    let granted = |claim: &super::history::Claim| {
        let (end, term) = claim.granted?;
        (claim.shard == shard).then_some((claim.start, end, term))
    };
    let claims: Vec<_> = history.claims.iter().filter_map(granted).collect();
    let terms: BTreeSet<_> = claims.iter().map(|(_, _, term)| *term).collect();
    if terms.len() < claims.len() {
        return Err(format!("W: an epoch was granted twice: {claims:?}"));
    }
    for (start, _, term) in &claims {
        if let Some(earlier) = claims.iter().find(|(_, end, other)| end < start && other > term) {
            return Err(format!("W: {term} was granted after {}", earlier.2));
        }
    }
    Ok(())
}

/// A call's place in its entity's stream.
#[derive(Debug, Clone, Copy)]
struct Placed {
    start: u64,
    end: u64,
    place: Seq,
    write: bool,
    number: usize,
}

/// **L**, and that reads reflect what they say.
///
/// # Errors
/// Two calls in the wrong order.
pub fn calls_fit_an_order(history: &History, shard: ShardId, end: &Replica) -> Found {
    let mut calls: BTreeMap<usize, Vec<Placed>> = BTreeMap::new();
    let mut placed = BTreeSet::new();
    for (entity, seq, seen) in end.records.iter().rev() {
        let request = &history.requests[seen.request];
        if request.lossy || !placed.insert(seen.request) {
            continue;
        }
        let done = request.acked.map_or(u64::MAX, |(end, ..)| end);
        let (start, number) = (request.start, seen.request);
        let call = Placed { start, end: done, place: *seq, write: true, number };
        calls.entry(*entity).or_default().push(call);
    }
    for (number, request) in history.requests.iter().enumerate() {
        // Those whose events are deleted.
        let (Some((end, last, _)), false) = (request.acked, request.lossy) else { continue };
        if history.shard(request.entity) == shard && placed.insert(number) {
            let call = Placed { start: request.start, end, place: last, write: true, number };
            calls.entry(request.entity).or_default().push(call);
        }
    }
    for (number, read) in history.reads.iter().enumerate() {
        if history.shard(read.entity) != shard {
            continue;
        }
        reflects(history, end, number)?;
        if read.linearizable {
            let (start, end, place) = (read.start, read.end, read.last);
            let call = Placed { start, end, place, write: false, number };
            calls.entry(read.entity).or_default().push(call);
        }
    }
    calls.into_iter().try_for_each(|(entity, calls)| in_order(history, entity, calls))
}

fn in_order(history: &History, entity: usize, mut calls: Vec<Placed>) -> Found {
    let mut ended = calls.clone();
    ended.sort_by_key(|call| call.end);
    calls.sort_by_key(|call| call.start);
    let mut ended = ended.into_iter().peekable();
    let mut latest: Option<Placed> = None;
    for call in calls {
        while let Some(before) = ended.next_if(|before| before.end < call.start) {
            if latest.is_none_or(|latest| before.place > latest.place) {
                latest = Some(before);
            }
        }
        let Some(before) = latest else { continue };
        if call.place < before.place || (call.write && call.place == before.place) {
            let say = |call: Placed| {
                let what = if call.write { "request" } else { "read" };
                format!("{what} {} (at {})", call.number, call.place)
            };
            return Err(format!(
                "L: {} of {} came after {} had ended",
                say(call),
                history.entities[entity],
                say(before)
            ));
        }
    }
    Ok(())
}

/// A read saw everything up to the position that it names, and nothing deleted that nobody deleted.
fn reflects(history: &History, end: &Replica, number: usize) -> Found {
    let read = &history.reads[number];
    let id = &history.entities[read.entity];
    let upto = end
        .records
        .iter()
        .filter(|(entity, _, seen)| *entity == read.entity && seen.position <= read.reflects);
    if let Some(seq) = upto.map(|(_, seq, _)| *seq).max().filter(|seq| *seq > read.last) {
        return Err(format!(
            "L: read {number} of {id} reflects {}, saw {} and not {seq}",
            read.reflects, read.last
        ));
    }
    let Some(first) = read.first.filter(|first| first.0 > 1) else { return Ok(()) };
    let wished = |d: &&super::history::Deletion| {
        d.entity == read.entity && d.start < read.end && !d.refused && d.to.next() >= first
    };
    match history.deletions.iter().find(wished) {
        Some(_) => Ok(()),
        None => Err(format!("A: read {number} of {id} begins with {first}, and nobody deleted")),
    }
}
