//! The port in memory.
/// In memory.
pub struct MemoryJournal;
