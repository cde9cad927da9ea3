//! Transfers between purses: what simulated clusters and real ones are tested with. In the end, and at
//! every look at all purses at once, nothing was lost or made; each transfer that was acknowledged is in
//! all of its purses once, and each that was refused in none.

mod purse;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub use self::purse::{Listing, Purse, Shift, Shifted, Shifts, Weigh};
use crate::rng::Rng;

/// Which purses, and what is put into each; together nothing.
pub type Parts = Vec<(usize, i64)>;

/// All transfers of a run.
#[derive(Default)]
pub struct Book(Mutex<Vec<Transfer>>);

struct Transfer {
    /// Which purses, and what is put into each.
    parts: Parts,
    acked: bool,
    /// Some try of it may have taken effect.
    unknown: bool,
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Vec<Transfer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws a transfer between some of so many purses: its number.
    pub fn begin(&self, purses: usize, rng: &mut Rng) -> (u64, Parts) {
        let count = (2 + rng.index(2)).min(purses);
        let first = rng.index(purses);
        let mut parts: Parts =
            (0..count).map(|n| ((first + n) % purses, rng.below(30) as i64 - 15)).collect();
        let total: i64 = parts.iter().map(|(_, by)| by).sum();
        parts[0].1 -= total;
        let mut all = self.lock();
        all.push(Transfer { parts: parts.clone(), acked: false, unknown: false });
        (all.len() as u64 - 1, parts)
    }

    /// It was acknowledged.
    pub fn acked(&self, number: u64) {
        self.lock()[number as usize].acked = true;
    }

    /// Some try of it may have taken effect.
    pub fn unknown(&self, number: u64) {
        self.lock()[number as usize].unknown = true;
    }

    /// How many transfers there were, and how many were acknowledged.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let all = self.lock();
        (all.len() as u64, all.iter().filter(|transfer| transfer.acked).count() as u64)
    }

    /// Compares what the purses hold with what the clients saw. Returns how many transfers were compared.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, purses: &[Vec<(u64, i64)>]) -> Result<u64, String> {
        let all = self.lock();
        let total: i64 = purses.iter().flatten().map(|(_, by)| by).sum();
        if total != 0 {
            return Err(format!("A: {total} too much is in the purses: {purses:?}"));
        }
        let mut found: BTreeMap<u64, Vec<(usize, i64)>> = BTreeMap::new();
        for (purse, shifts) in purses.iter().enumerate() {
            for (transfer, by) in shifts {
                found.entry(*transfer).or_default().push((purse, *by));
            }
        }
        if let Some(unknown) = found.keys().find(|transfer| **transfer >= all.len() as u64) {
            return Err(format!("A: nobody made transfer {unknown}"));
        }
        for (number, transfer) in (0..).zip(all.iter()) {
            let mut parts = transfer.parts.clone();
            parts.sort_unstable();
            match found.get(&number) {
                None if transfer.acked => return Err(format!("A: transfer {number} is lost")),
                None => {}
                Some(found) if *found != parts => {
                    return Err(format!("A: transfer {number} is {found:?}, not {parts:?}"));
                }
                Some(_) if !transfer.acked && !transfer.unknown => {
                    return Err(format!("A: transfer {number} was refused, and is there"));
                }
                Some(_) => {}
            }
        }
        Ok(all.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(acked: bool, unknown: bool) -> Book {
        let book = Book::default();
        book.lock().push(Transfer { parts: vec![(1, 5), (0, -5)], acked, unknown });
        book
    }

    #[test]
    fn what_fits_passes() {
        let both = [vec![(0, -5)], vec![(0, 5)]];
        assert_eq!(book(true, false).check(&both), Ok(1));
        assert_eq!(book(false, true).check(&both), Ok(1));
        assert_eq!(book(false, false).check(&[vec![], vec![]]), Ok(1));
    }

    #[test]
    fn each_violation_is_found() {
        type Held = [Vec<(u64, i64)>; 2];
        let cases: [(Book, Held, &str); 5] = [
            (book(true, false), [vec![(0, -5)], vec![]], "too much"),
            (book(true, false), [vec![], vec![]], "is lost"),
            (book(true, false), [vec![(0, -5), (0, -5)], vec![(0, 5), (0, 5)]], "transfer 0 is"),
            (book(false, false), [vec![(0, -5)], vec![(0, 5)]], "was refused"),
            (book(true, false), [vec![(7, -5)], vec![(7, 5)]], "nobody made"),
        ];
        for (book, purses, says) in cases {
            let error = book.check(&purses).expect_err("a violation");
            assert!(error.contains(says), "{error}");
        }
    }
}
