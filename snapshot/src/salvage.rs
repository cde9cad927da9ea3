//! What is left of a damaged file: read without a change to it, and let go without one.
//!
//! redb acts on pages that it has not verified. A bit that flipped in a page of its free lists has
//! it panic in a commit, and again in a destructor while that panic unwinds: the process ends, and
//! nothing can catch it. The commit that a database makes when it is dropped is such a commit. So
//! damage is looked for before redb writes ([`verified`]), and a damaged database is never written
//! to and never closed by a commit ([`let_go`]).

use std::sync::Arc;

use redb::{Database, DatabaseError, StorageError};

use crate::{
    paged_file::{PagedFile, SharedPagedFile},
    tables::{self, Fault, Salvaged, contained},
};

/// Opens the database in a file.
pub(crate) fn database(paged: &Arc<PagedFile>, cache_bytes: usize) -> Result<Database, Fault> {
    // redb would make a new database of an empty file, in place.
    if redb::StorageBackend::len(&**paged)? == 0 {
        return Err(Fault::Damaged("the file is empty".into()));
    }
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    Ok(builder.create_with_backend(SharedPagedFile(paged.clone()))?)
}

/// Opens the database in a file, and where `verify` asks for it reads every page that a tree of
/// redb's refers to, its free lists too, and compares the checksums. Also says whether there are
/// snapshots. The file does not change before the caller says [`PagedFile::release`].
pub(crate) fn verified(
    paged: &Arc<PagedFile>,
    cache_bytes: usize,
    verify: bool,
) -> Result<(Database, bool), Fault> {
    let mut opened = None;
    let checked = contained(|| {
        let db = opened.insert(database(paged, cache_bytes)?);
        if verify {
            db.check_integrity()?;
        }
        tables::check(db)
    });
    match (checked, opened) {
        (Ok(any), Some(db)) => Ok((db, any)),
        (Ok(_), None) => Err(Fault::Damaged("the file is closed".into())),
        (Err(fault), opened) => {
            if let Some(db) = opened {
                let_go(db, paged);
            }
            Err(fault)
        }
    }
}

/// Drops a damaged database without the commit that dropping makes.
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

/// Copies all values that verify from a damaged file into `into`. What cannot be read is lost; an
/// error is one of `into`.
pub(crate) fn salvage(
    open: impl Fn() -> Option<PagedFile>,
    cache_bytes: usize,
    into: &Database,
) -> Result<Salvaged, Fault> {
    // Where the newest commit does not open, the one before it may: closing a store in good order
    // makes a commit that changes nothing but redb's own lists.
    for commit_before in [false, true] {
        let Some(paged) = open() else { break };
        paged.hold();
        paged.strict(false);
        if commit_before {
            paged.distrust_last_commit();
        }
        let paged = Arc::new(paged);
        if let Ok(db) = contained(|| database(&paged, cache_bytes)) {
            let entries = redb::StorageBackend::len(&*paged)? / tables::MIN_ENTRY_BYTES;
            let copied = contained(|| tables::copy_verified(&db, into, entries));
            let_go(db, &paged);
            match copied? {
                Some(salvaged) => return Ok(salvaged),
                None => continue,
            }
        }
    }
    Ok(Salvaged::default())
}
