//! Reading all that the log relies on, to find damage before somebody needs what is damaged.

use super::{
    access::{Access, Missed},
    files::{FileSet, Source},
    footer::ShardRow,
    read::{Extent, read_frames},
    scan::verify_frames,
    sealed::Sealed,
};
use crate::{error::JournalError, id::Position};

/// Reads all frames that count, and says how many there are.
pub(crate) fn verify(set: &FileSet) -> Result<u64, JournalError> {
    let mut frames = 0;
    for source in set.sources() {
        frames += match source {
            Source::Live(live) => verify_frames(&live.path, &*live.file, live.salt, live.end())?,
            Source::Sealed(sealed) if set.replaced_events(sealed) > 0 => rest(set, source, sealed)?,
            Source::Sealed(sealed) => {
                verify_frames(&sealed.path, &*sealed.file, sealed.header.salt, sealed.len)?
            }
        };
    }
    Ok(frames)
}

/// The frames of a file of which shards were replaced: those of the other shards. Theirs may be
/// damaged, and nobody reads them.
fn rest(set: &FileSet, source: &Source, sealed: &Sealed) -> Result<u64, JournalError> {
    let counts = |row: &&ShardRow| !set.replaced_after(row.shard, sealed.header.last);
    let rows: Vec<&ShardRow> = sealed.shards.iter().filter(counts).collect();
    let mut frames = 0;
    for row in &rows {
        frames += order(sealed, row)?;
    }
    let shards = u64::from(set.shards().max(1));
    let counts = |hash: u64| rows.iter().any(|row| u64::from(row.shard.0) == hash % shards);
    for page in 0..if rows.is_empty() { 0 } else { sealed.trailer.pages } {
        for (hash, offset) in sealed.page(page, Access::Waiting).map_err(Missed::into_error)? {
            if counts(hash) {
                frames += entity(source, sealed, offset)?;
            }
        }
        frames += 1;
    }
    Ok(frames)
}

fn order(sealed: &Sealed, row: &ShardRow) -> Result<u64, JournalError> {
    let (mut after, mut parts) = (Position::ZERO, 0);
    while let Some(last) = sealed.order(row.shard, after)?.last() {
        (after, parts) = (last.last(), parts + 1);
    }
    Ok(parts + u64::from(parts > 0))
}

fn entity(source: &Source, sealed: &Sealed, offset: u64) -> Result<u64, JournalError> {
    let (_, index) = sealed.entity_at(offset, Access::Waiting).map_err(Missed::into_error)?;
    let extents: Vec<_> = index.runs.into_iter().map(Extent::from).collect();
    let mut frames = 1;
    let read = read_frames(source, &extents, Access::Waiting, |_, _| {
        frames += 1;
        Some(())
    });
    read.map(|()| frames).map_err(Missed::into_error)
}
