//! A lane: a connection of its own for the frames of one class, read and written without actors.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, PoisonError},
};

use bytes::{Buf, Bytes, BytesMut};
use duractor_journal::transport::Class;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::{
    connection::Wire,
    peer::{LaneQueue, Link},
    wire::{Head, Kind, RECORD_HEAD},
};

/// What is read or written at once.
const BUFFER: usize = 64 << 10;
/// Frames longer than this are written from where they are.
const COPY: usize = 16 << 10;

/// Starts a lane's tasks. They end with the link, and it with them.
pub(crate) fn start(link: &Arc<Link>, class: Class, wire: Wire) {
    let (read, write) = tokio::io::split(wire);
    let (reader, writer) = (link.clone(), link.clone());
    let reading = tokio::spawn(async move {
        let reason = match receive(&reader, class, read).await {
            Ok(()) => "a lane ended",
            Err(_) => "a lane broke",
        };
        reader.close(reason);
    });
    let writing = tokio::spawn(async move {
        if transmit(queue(&writer, class), class, write).await.is_err() {
            writer.close("a lane broke");
        }
    });
    link.own_task(reading.abort_handle());
    link.own_task(writing.abort_handle());
}

fn queue(link: &Link, class: Class) -> &LaneQueue {
    if class == Class::Bulk { &link.bulk } else { &link.data }
}

async fn transmit(queue: &LaneQueue, class: Class, mut wire: WriteHalf<Wire>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut batch: VecDeque<(u8, Bytes)> = VecDeque::new();
    loop {
        std::mem::swap(
            &mut batch,
            &mut *queue.frames.lock().unwrap_or_else(PoisonError::into_inner),
        );
        if batch.is_empty() {
            queue.more.notified().await;
            // Let those who are about to send, too, do so first: one write is for all of them.
            tokio::task::yield_now().await;
            continue;
        }
        for (channel, frame) in batch.drain(..) {
            let head = Head { kind: Kind::Frame(class), channel, length: frame.len() };
            buffer.extend_from_slice(&head.encode());
            if frame.len() <= COPY {
                buffer.extend_from_slice(&frame);
            }
            if frame.len() > COPY || buffer.len() > BUFFER - COPY - RECORD_HEAD {
                wire.write_all(&buffer).await?;
                buffer.clear();
            }
            if frame.len() > COPY {
                wire.write_all(&frame).await?;
            }
        }
        wire.write_all(&buffer).await?;
        buffer.clear();
        wire.flush().await?;
    }
}

async fn receive(link: &Link, class: Class, mut wire: ReadHalf<Wire>) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    loop {
        while let Some((head, frame)) = next_record(&mut buffer, link.max_frame_bytes)? {
            if head.kind != Kind::Frame(class) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if !link.lane_frame(class, head.channel, frame) {
                return Ok(());
            }
        }
        if wire.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        link.pulse.heard();
    }
}

/// The next record that is there as a whole; makes room for it where it is not.
fn next_record(buffer: &mut BytesMut, limit: usize) -> io::Result<Option<(Head, Bytes)>> {
    if buffer.len() < RECORD_HEAD {
        buffer.reserve(BUFFER);
        return Ok(None);
    }
    let head = Head::decode(buffer).filter(|head| head.length <= limit);
    let head = head.ok_or(io::ErrorKind::InvalidData)?;
    let whole = RECORD_HEAD + head.length;
    if buffer.len() < whole {
        buffer.reserve((whole - buffer.len()).max(BUFFER / 4));
        return Ok(None);
    }
    buffer.advance(RECORD_HEAD);
    Ok(Some((head, buffer.split_to(head.length).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_whole_however_they_come_in() {
        let mut bytes = Vec::new();
        for length in [0_usize, 1, 70_000] {
            let head = Head { kind: Kind::Frame(Class::Bulk), channel: 3, length };
            bytes.extend_from_slice(&head.encode());
            bytes.extend(std::iter::repeat_n(7, length));
        }
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for chunk in bytes.chunks(5) {
            buffer.extend_from_slice(chunk);
            while let Some((head, frame)) = next_record(&mut buffer, 70_000).unwrap() {
                assert_eq!((head.channel, head.length), (3, frame.len()));
                found.push(frame.len());
            }
        }
        assert_eq!(found, [0, 1, 70_000]);
        buffer.extend_from_slice(&bytes);
        assert!((0..3).any(|_| next_record(&mut buffer, 69_999).is_err()), "too long");
    }
}
