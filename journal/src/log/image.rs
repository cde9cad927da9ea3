//! stub
use crate::error::JournalError;
use bytes::Bytes;
pub(crate) struct Image;
impl Image {
    pub(crate) fn seek(&mut self, _cursor: &[u8]) -> Result<(), JournalError> {
        Err(JournalError::Closed)
    }
    pub(crate) fn next_chunk(&mut self, _max: usize) -> Result<Option<Bytes>, JournalError> {
        Err(JournalError::Closed)
    }
}
