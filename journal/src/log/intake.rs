//! stub
use crate::error::JournalError;
use bytes::Bytes;
pub(crate) struct Intake;
pub(crate) struct Staged;
impl Intake {
    pub(crate) fn take(&mut self, _chunk: &[u8]) -> Result<(), JournalError> {
        unimplemented!()
    }
    pub(crate) fn cursor(&self) -> Bytes {
        unimplemented!()
    }
    pub(crate) fn finish(self) -> Result<Staged, JournalError> {
        unimplemented!()
    }
}
