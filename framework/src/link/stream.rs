//! The session's connection, as ractor_cluster takes it: watched, and cut off when the link is closed.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf, ReadHalf, WriteHalf};

use super::{
    connection::{Gate, Wire},
    peer::Link,
};

/// What a reader holds in memory: one read of the system's fills it.
const READ_BUFFER: usize = 64 << 10;

/// The session's connection, as ractor_cluster takes it.
pub(crate) struct SessionStream {
    pub(crate) wire: Wire,
    pub(crate) link: Arc<Link>,
}

impl ClusterBidiStream for SessionStream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (read, write) = tokio::io::split(self.wire);
        let link = Arc::downgrade(&self.link);
        let gate = self.link.gate.clone();
        let read = SessionRead {
            inner: BufReader::with_capacity(READ_BUFFER, read),
            gate: gate.clone(),
            link: link.clone(),
        };
        (Box::new(read), Box::new(SessionWrite { inner: write, gate, link }))
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.link.peer.to_string())
    }
}

struct SessionRead {
    inner: BufReader<ReadHalf<Wire>>,
    gate: Arc<Gate>,
    link: Weak<Link>,
}

impl AsyncRead for SessionRead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.gate.closed_to_reader(context) {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if polled.is_ready()
            && let Some(link) = self.link.upgrade()
        {
            link.pulse.heard();
        }
        polled
    }
}

struct SessionWrite {
    inner: WriteHalf<Wire>,
    gate: Arc<Gate>,
    link: Weak<Link>,
}

impl SessionWrite {
    /// An error where the connection is cut off.
    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        if self.gate.closed_to_writer(context) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

impl AsyncWrite for SessionWrite {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        let polled = Pin::new(&mut self.inner).poll_flush(context);
        // The session's writer flushes when it has written all that it had: time for the next parcel.
        if polled.is_ready()
            && let Some(link) = self.link.upgrade()
        {
            link.flushed();
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
