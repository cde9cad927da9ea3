//! What the store does inside redb: one transaction of saves and deletes, and the lookup.
//!
//! redb checks its pages only when it repairs a file after a crash, so between two opens a damaged
//! page shows as anything: an error, a panic, keys out of order, keys that are missing. So nothing
//! here trusts an order or a count: a snapshot is taken as there only where its value verifies
//! under its key, and the number of entries looked at is bounded.

use std::panic::{AssertUnwindSafe, catch_unwind};

use duractor_journal::EntityId;
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition,
};

use crate::{
    port::{Criteria, Retention, Saved, Snapshot},
    value::{self, Header},
};

/// Entity and sequence number → state; see [`crate::value`] for the bytes.
const SNAPSHOTS: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("snapshots");
/// The format of the file: `"format"` → version u32 and its crc32c, little-endian.
const META: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("meta");
const FORMAT: u32 = 1;

/// Entries that a lookup passes over before it gives up. An entity has a handful of snapshots;
/// damaged pages could otherwise lead a lookup round and round.
const MAX_PASSED: usize = 10_000;

/// What redb found wrong. Since its storage never fails, every error means damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// Damage, or a panic inside redb.
    #[error("{0}")]
    Damaged(String),
    /// The file is of a later version.
    #[error("format {0} is of a later version")]
    Newer(u32),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Fault::Damaged(error.into().to_string())
    }
}

impl Fault {
    /// Whether a panic left a lock of redb's poisoned: nothing works until the file is opened
    /// again.
    pub(crate) fn is_poison(&self) -> bool {
        matches!(self, Fault::Damaged(text) if text.contains("Poison"))
    }
}

/// Runs `work` and turns a panic into a fault: redb panics on some kinds of damage. (In a program
/// that is built to abort on panic, such damage ends the program.)
pub(crate) fn contained<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        Err(Fault::Damaged(format!("redb panicked: {text}")))
    })
}

/// Makes the tables of a new file.
pub(crate) fn create(db: &Database) -> Result<(), Fault> {
    let txn = db.begin_write()?;
    {
        txn.open_table(SNAPSHOTS)?;
        let version = FORMAT.to_le_bytes();
        let stored = [version, crc32c::crc32c(&version).to_le_bytes()].concat();
        txn.open_table(META)?.insert(&b"format"[..], &stored[..])?;
    }
    Ok(txn.commit()?)
}

/// Checks the tables of an existing file. Returns whether there are snapshots.
pub(crate) fn check(db: &Database) -> Result<bool, Fault> {
    let txn = db.begin_read()?;
    let meta = txn.open_table(META)?;
    let stored = meta.get(&b"format"[..])?.map(|v| v.value().to_vec()).unwrap_or_default();
    let (version, sum) = match <[u8; 8]>::try_from(stored) {
        Ok([a, b, c, d, sum @ ..]) => ([a, b, c, d], u32::from_le_bytes(sum)),
        Err(_) => return Err(Fault::Damaged("the format version is missing".into())),
    };
    if crc32c::crc32c(&version) != sum {
        return Err(Fault::Damaged("the format version does not verify".into()));
    }
    match u32::from_le_bytes(version) {
        FORMAT => Ok(!txn.open_table(SNAPSHOTS)?.is_empty()?),
        newer => Err(Fault::Newer(newer)),
    }
}

/// What a lookup found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) snapshot: Option<Snapshot>,
    /// Entries that did not verify.
    pub(crate) damaged: u64,
}

/// The newest snapshot that matches and verifies: one range of the table, from its end.
pub(crate) fn load(db: &Database, entity: &EntityId, criteria: Criteria) -> Result<Found, Fault> {
    let table = db.begin_read()?.open_table(SNAPSHOTS)?;
    let prefix = value::key_prefix(entity);
    let (first, last) =
        (value::key(entity, criteria.min_seq), value::key(entity, criteria.max_seq));
    let mut found = Found::default();
    if first > last {
        return Ok(found);
    }
    let entries = table.range(first.as_slice()..=last.as_slice())?;
    for entry in entries.rev().take(MAX_PASSED) {
        let (key, stored) = entry?;
        let verified = value::verify(&prefix, key.value(), stored.value());
        let decoded = match verified {
            Ok(header) if !criteria.matches(header.seq, header.timestamp) => continue,
            Ok(header) => value::decode(entity, &header, stored.value()),
            Err(reason) => Err(reason),
        };
        match decoded {
            Ok(snapshot) => {
                found.snapshot = Some(snapshot);
                break;
            }
            Err(reason) => {
                found.damaged += 1;
                report(entity, reason);
            }
        }
    }
    Ok(found)
}

/// Says that a stored snapshot counts as absent.
pub(crate) fn report(entity: &EntityId, reason: &str) {
    tracing::warn!(%entity, reason, "a stored snapshot does not verify and counts as absent");
}

/// An encoded snapshot.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) entity: EntityId,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// One change of a transaction.
#[derive(Debug)]
pub(crate) enum Change {
    Save(Vec<Row>, Retention),
    Delete(EntityId, Criteria),
}

/// What became of a change.
#[derive(Debug)]
pub(crate) enum Done {
    Saved(Vec<Saved>),
    Deleted(u64),
}

/// Puts rows into a new file.
pub(crate) fn put(db: &Database, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Fault> {
    let txn = db.begin_write()?;
    {
        let mut table = txn.open_table(SNAPSHOTS)?;
        for (key, stored) in rows {
            table.insert(key.as_slice(), stored.as_slice())?;
        }
    }
    Ok(txn.commit()?)
}

type Snapshots<'txn> = Table<'txn, &'static [u8], &'static [u8]>;

/// Makes all changes in one transaction. Returns what became of each, and how many entries did not
/// verify.
pub(crate) fn apply(db: &Database, changes: &[Change]) -> Result<(Vec<Done>, u64), Fault> {
    let txn = db.begin_write()?;
    let mut damaged = 0;
    let mut done = Vec::with_capacity(changes.len());
    {
        let mut table = txn.open_table(SNAPSHOTS)?;
        for change in changes {
            done.push(match change {
                Change::Save(rows, keep) => {
                    Done::Saved(save(&mut table, rows, *keep, &mut damaged)?)
                }
                Change::Delete(entity, criteria) => {
                    Done::Deleted(delete(&mut table, entity, *criteria)?)
                }
            });
        }
    }
    txn.commit()?;
    Ok((done, damaged))
}

fn save(
    table: &mut Snapshots<'_>,
    rows: &[Row],
    keep: Retention,
    damaged: &mut u64,
) -> Result<Vec<Saved>, Fault> {
    for row in rows {
        table.insert(row.key.as_slice(), row.value.as_slice())?;
    }
    rows.iter().map(|row| retain(table, &row.entity, keep, damaged)).collect()
}

/// Removes what is older than the snapshots to keep, and says which is the oldest one left.
///
/// Only values that verify count: a damaged key with a high sequence number must not push out the
/// snapshot that was just saved, nor pass for the oldest one, below which events may be deleted.
fn retain(
    table: &mut Snapshots<'_>,
    entity: &EntityId,
    keep: Retention,
    damaged: &mut u64,
) -> Result<Saved, Fault> {
    let (mut kept, mut oldest, mut old) = (0, None, Vec::new());
    visit(table, entity, Criteria::ALL, |key, verified| match verified {
        Ok(header) if kept < keep.limit() => {
            kept += 1;
            oldest = Some(header.seq);
        }
        Ok(_) => old.push(key.to_vec()),
        Err(reason) => {
            *damaged += 1;
            report(entity, reason);
            old.push(key.to_vec());
        }
    })?;
    let oldest = oldest.ok_or_else(|| Fault::Damaged("a saved snapshot is not found".into()))?;
    for key in old {
        table.remove(key.as_slice())?;
    }
    Ok(Saved { oldest })
}

fn delete(table: &mut Snapshots<'_>, entity: &EntityId, which: Criteria) -> Result<u64, Fault> {
    let mut matching = Vec::new();
    visit(table, entity, which, |key, verified| {
        let matches = match verified {
            Ok(header) => which.matches(header.seq, header.timestamp),
            Err(_) => which.any_time(),
        };
        if matches {
            matching.push(key.to_vec());
        }
    })?;
    for key in &matching {
        table.remove(key.as_slice())?;
    }
    Ok(matching.len() as u64)
}

/// Shows an entity's entries within the criteria's sequence numbers, newest first.
fn visit(
    table: &Snapshots<'_>,
    entity: &EntityId,
    which: Criteria,
    mut seen: impl FnMut(&[u8], Result<Header, &'static str>),
) -> Result<(), Fault> {
    let prefix = value::key_prefix(entity);
    let (first, last) = (value::key(entity, which.min_seq), value::key(entity, which.max_seq));
    if first > last {
        return Ok(());
    }
    for entry in table.range(first.as_slice()..=last.as_slice())?.rev() {
        let (key, stored) = entry?;
        // A key outside of the range is damage of the tree: it may be another entity's.
        if !key.value().starts_with(&prefix) {
            return Err(Fault::Damaged("keys are out of order".into()));
        }
        seen(key.value(), value::verify(&prefix, key.value(), stored.value()));
    }
    Ok(())
}
