//! What is left of a damaged file: read without a change to it, and let go without one.
//!
//! redb acts on pages that it has not verified. A bit that flipped in a page of its free lists has
//! it panic in a commit, and again in a destructor while that panic unwinds: the process ends, and
//! nothing can catch it. The commit that a database makes when it is dropped is such a commit. A bit
//! in the number of a page has it ask for gigabytes, which ends the process too. So a file is
//! verified before redb uses it ([`probe`]), from a damaged one values are read without redb
//! ([`values`]), and a damaged database is not closed by a commit ([`let_go`]).

use std::{collections::BTreeSet, sync::Arc};

use duractor_journal::disk::DiskFile;
use redb::{Database, DatabaseError, StorageError};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    paged_file::{PagedFile, SharedPagedFile},
    tables::{Fault, contained},
    value,
};

/// Verifies the checksums of all pages that a tree of redb's refers to, its own lists included, and
/// changes nothing. It is redb's repair after a crash, which verifies each page before it follows
/// what is in it; opening a file that was closed well would not.
pub(crate) fn probe(paged: &Arc<PagedFile>, cache_bytes: usize) -> Result<(), Fault> {
    // Where the last commit was made in one phase, a crash explains pages that do not verify, and
    // redb goes back to the commit before it. Otherwise they are damage.
    let torn = !paged.two_phase()?;
    paged.distrust_last_commit();
    let db = contained(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes).set_repair_callback(move |session| {
            // This far it comes only where the last commit does not verify.
            if !torn && session.progress() > 0.2 && session.progress() < 0.5 {
                session.abort();
            }
        });
        Ok(builder.create_with_backend(SharedPagedFile(paged.clone()))?)
    })?;
    let_go(db, paged);
    Ok(())
}

/// Drops a database without the commit that dropping makes.
pub(crate) fn let_go(mut db: Database, paged: &PagedFile) {
    paged.refuse();
    // redb makes no commit after its storage failed, and this is how it comes to know: the check
    // starts with a sync, before it looks at a page.
    let mut told = false;
    let _ = contained(|| {
        let result = db.check_integrity();
        let failed = |e: &StorageError| matches!(e, StorageError::Io(_) | StorageError::PreviousIo);
        told = matches!(&result, Err(DatabaseError::Storage(e)) if failed(e));
        Ok(())
    });
    if told {
        let _ = contained(|| {
            drop(db);
            Ok(())
        });
    } else {
        // A close that commits could end the process. What leaks is the cache and an open file,
        // once for a damaged file.
        std::mem::forget(db);
    }
}

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

const PAGE: u64 = 4096;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;

/// Shows all values that verify in the snapshots' tree, as the damaged file has it. Returns how many
/// more there should be, as far as that can be told; an error is one of `seen`.
pub(crate) fn values<E>(
    file: &dyn DiskFile,
    mut seen: impl FnMut(Row) -> Result<(), E>,
) -> Result<u64, E> {
    // Only the last commit: from the one before, what was deleted or replaced since would come back.
    let Some((mut walk, slot)) = Walk::begin(file) else { return Ok(0) };
    let mut tables = Vec::new();
    let Some(root) = child(&slot, 8, 16) else { return Ok(0) };
    let found: Result<(), E> = walk.tree(root, &mut |key, stored| {
        if key == b"snapshots" {
            tables.push(stored.to_vec());
        }
        Ok(())
    });
    found?;
    // Type u8, length u64, whether there is a root u8, the root's page.
    let Some(table) = tables.first() else { return Ok(0) };
    let (Some(len), Some(root)) = (number(table, 1), child(table, 10, 18)) else { return Ok(0) };
    if table.get(9) == Some(&0) {
        return Ok(0);
    }
    let (mut saved, mut unverified) = (0u64, 0u64);
    walk.tree(root, &mut |key, stored| {
        let prefix = &key[..key.len().saturating_sub(8)];
        if value::verify(prefix, key, stored).is_err() {
            unverified += 1;
            return Ok(());
        }
        saved += 1;
        seen((key.to_vec(), stored.to_vec()))
    })?;
    let plausible = len <= walk.len / 28;
    Ok(if plausible { len.saturating_sub(saved) } else { unverified })
}

/// A walk through trees of which nothing is believed: each page is looked at once, and no number
/// leads out of the file or out of a page.
struct Walk<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    region_header_pages: u64,
    region_pages: u64,
    visited: BTreeSet<u64>,
}

impl<'a> Walk<'a> {
    /// Also gives the last commit.
    fn begin(file: &'a dyn DiskFile) -> Option<(Self, Vec<u8>)> {
        let len = file.len().ok()?;
        let mut header = [0; 320];
        if file.read_at(0, &mut header).ok()? < header.len() {
            return None;
        }
        let region_header_pages = number(&header, 16)? & u64::from(u32::MAX);
        let region_pages = region_header_pages + (number(&header, 16)? >> 32);
        let slot = if header[9] & 1 == 0 { &header[64..192] } else { &header[192..] };
        let slot = slot.to_vec();
        let visited = BTreeSet::new();
        Some((Self { file, len, region_header_pages, region_pages, visited }, slot))
    }

    /// A page's number: index (20 bits), region (20 bits), order (the highest 5 bits).
    fn page(&mut self, page: u64) -> Option<Vec<u8>> {
        let order = page >> 59;
        let size = PAGE << order;
        let index = page & (0xf_ffff >> order);
        let region = (page >> 20 & 0xf_ffff).checked_mul(self.region_pages * PAGE)?;
        let at = (PAGE + self.region_header_pages * PAGE)
            .checked_add(region)?
            .checked_add(index * size)?;
        if at.checked_add(size)? > self.len || !self.visited.insert(at) {
            return None;
        }
        let mut bytes = vec![0; size as usize];
        let read = self.file.read_at(at, &mut bytes).ok()?;
        (read == bytes.len()).then_some(bytes)
    }

    /// Only pages that have the checksum which the page above them tells: others may be whole and
    /// yet be of another commit.
    fn tree<E>(
        &mut self,
        root: Child,
        seen: &mut impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut ahead = vec![root];
        while let Some(page) = ahead.pop() {
            let Some(bytes) = self.page(page.number) else { continue };
            if used(&bytes).map(xxh3_128) != Some(page.checksum) {
                continue;
            }
            let count = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
            match bytes[0] {
                // A checksum (16 bytes) for each child, then its number.
                BRANCH => ahead.extend(
                    (0..=count)
                        .map_while(|n| child(&bytes, 8 + 16 * (count + 1) + 8 * n, 8 + 16 * n)),
                ),
                LEAF => {
                    for n in 0..count {
                        if let Some((key, stored)) = entry(&bytes, count, n) {
                            seen(key, stored)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A page, and the checksum that it must have.
#[derive(Clone, Copy)]
struct Child {
    number: u64,
    checksum: u128,
}

fn child(bytes: &[u8], number_at: usize, checksum_at: usize) -> Option<Child> {
    let checksum = bytes.get(checksum_at..checksum_at.checked_add(16)?)?;
    let checksum = u128::from_le_bytes(checksum.try_into().ok()?);
    Some(Child { number: number(bytes, number_at)?, checksum })
}

/// The part of a page that its checksum covers: up to the end of its last value or key.
fn used(bytes: &[u8]) -> Option<&[u8]> {
    let count = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
    let last_end = match bytes[0] {
        LEAF => 4 + 4 * (2 * count).checked_sub(1)?,
        BRANCH => 8 + 24 * (count + 1) + 4 * count.checked_sub(1)?,
        _ => return None,
    };
    let end = bytes.get(last_end..last_end.checked_add(4)?)?;
    bytes.get(..u32::from_le_bytes(end.try_into().ok()?) as usize)
}

/// An entry of a leaf: where each key ends, where each value ends, the keys, the values.
fn entry(bytes: &[u8], count: usize, n: usize) -> Option<(&[u8], &[u8])> {
    let end = |n: usize| Some((number(bytes, 4 + 4 * n)? & u64::from(u32::MAX)) as usize);
    let start = |n: usize| if n == 0 { Some(4 + 8 * count) } else { end(n - 1) };
    let key = bytes.get(start(n)?..end(n)?)?;
    Some((key, bytes.get(end(count + n - 1)?..end(count + n)?)?))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
